"""Measuring: metrics as pure functions, streaming accumulators, and results that carry their protocol.

Import the submodule that you need, for example `from jaxtok.evaluate import images`:

  protocol    `Result` records, comparison that refuses unlike protocols, JSON
  streaming   the masked float64 mean that every per-image metric goes through
  images      PSNR and SSIM of reconstructions
  codes       usage, perplexity, entropy, bit balance and correlation of discrete latents
  judge       an independent classifier that says whether generated digits show what was asked for
  scenes      exact scene accuracy on pictures of coloured shapes
"""
