"""Networks whose features metrics compare: one interface, the embedded one and Inception behind it.

network     `FeatureNetwork`: images to features, with a name, a version and a resizing
digits      the embedded network, trained on handwritten digits; needs nothing
inception   InceptionV3 of the Frechet Inception distance, from a local weight file
"""
