"""Official layouts of stand-alone quantizers."""
