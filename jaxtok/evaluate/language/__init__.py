"""Token sequences as a language: the statistics of quantitative linguistics (arXiv 2411.05001).

Pure functions of token ids `[B, N]` (one row per image, sentence or sound), in float64, for tokens of any
kind. Import the submodule that you need:

  tokens       ids of whole tokens from codes [B, N, Q], n-grams
  orders       ways to read a grid as a line, and shuffles: the controls that every claim needs
  frequency    rank and frequency: Zipf, Zipf-Mandelbrot, power laws by likelihood, Benford
  innovation   new types: Heaps, innovation per image, Yule and Simon
  information  block entropies, information against distance, Huffman and compressed lengths
  granularity  what a token stands for: purity, information about labels of cells
  grammar      held-out perplexity of a small context-free grammar
  topology     co-occurrence embeddings, Procrustes, centred kernel alignment
  table        all of it for one tokenizer, with its controls

Numbers depend on the size of corpus and alphabet: compare languages at equal N and K only.
"""
