"""Training losses as functions on arrays, always computed in float32.

Import the submodule that you need, for example `from jaxtok.losses import reconstruction`:

  reconstruction   smooth L1, L1, L2
  perceptual       distances in a frozen network's features: LPIPS-VGG16, ConvNeXt-S, and a network trained
  on the
                   embedded digits for when there are no weights
  adversarial      hinge and non-saturating losses, LeCam, adaptive weight, delayed start
  discriminators   PatchGAN
  alignment        REPA: hidden tokens look like the features of a frozen encoder
  flow             rectified flow: times, points and the loss of a velocity
"""
