"""Measuring: metrics as pure functions, streaming accumulators, and results that carry their protocol.

Import the submodule that you need, for example `from jaxtok.evaluate import images`:

  protocol    `Result` records, comparison that refuses unlike protocols, JSON
  comparison  two files of results side by side (`python -m jaxtok.evaluate compare a.json b.json`)
  streaming   the masked float64 mean that every per-image metric goes through
  bootstrap   intervals of any statistic, paired differences
  images      PSNR and SSIM of reconstructions
  features    feature networks: the embedded one, and Inception from a local file
  frechet     Frechet distance of any features, from streamed moments
  references  statistics of a reference set as a file, in the layout of ADM
  distributions  kernel distance, class score, precision and recall, density and coverage
  feature_sets   sets of images by their features, and the results of comparing two
  perturbed   codes with errors, for pFID
  retrieval   whether texts find their own items
  resizing    the resizings that feature networks were made with
  counts      usage, perplexity and entropies of counts
  codes       the same of discrete latents, per slot and together; bit balance and correlation
  rates       bits per token, image and pixel, by the alphabet or by a prior
  infomec     modularity, explicitness and compactness: latents against factors of variation
  dci         the older measure of the same
  probes      labels from latents by a linear map
  language    token sequences as a language: laws of frequency, entropies, compression, meaning, controls
  scorer       an independent classifier that says whether generated digits show what was asked for
  clip_score  agreement of images and captions by a CLIP model from a local folder
  composition GenEval's rules on objects that any detector has found
  scenes      exact scene accuracy on pictures of coloured shapes
"""
