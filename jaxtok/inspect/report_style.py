"""The style sheet of the HTML report: light and dark as the reader's system has it, one column on a phone."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f8; --card: #ffffff; --ink: #1f2328; --faint: #626a73;
  --line: #dfe3e8; --accent: #0072b2; --soft: #e8f1f8; --warn: #8a4b00; --warn-soft: #fdf1e0; }
@media (prefers-color-scheme: dark) {
  :root { --page: #14171a; --card: #1d2125; --ink: #e4e7ea; --faint: #9aa3ad; --line: #343a41;
    --accent: #63b3e4; --soft: #1f3342; --warn: #f0b56a; --warn-soft: #35291a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 27px; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
p { margin: 6px 0; }
a { color: var(--accent); }
code, .mono { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: 0.9em;
  overflow-wrap: anywhere; }
.lead { font-size: 16px; }
.faint, figcaption, .protocol { color: var(--faint); font-size: 13px; }
nav { display: flex; flex-wrap: wrap; gap: 6px 16px; margin: 16px 0 0; font-size: 14px; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px;
  margin: 12px 0; }
.card > h3:first-child, .columns > section:first-child > h3 { margin-top: 0; }
.results { columns: 2 440px; column-gap: 14px; }
.results .card { margin: 0 0 14px; break-inside: avoid; }
.absent { background: var(--warn-soft); color: var(--warn); border-radius: 8px; padding: 8px 12px;
  margin: 10px 0; font-size: 14px; }
ul.absent { padding-left: 30px; }
.tiles { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(165px, 1fr));
  margin: 18px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; }
.tile b { display: block; font-size: 24px; line-height: 1.25; font-weight: 600; }
.tile span { display: block; font-size: 12.5px; color: var(--faint); overflow-wrap: anywhere; }
.curves { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.curve { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 8px 10px 4px; }
.curve div { display: flex; justify-content: space-between; gap: 8px; font-size: 13px; }
svg { display: block; width: 100%; height: auto; }
svg .axis { stroke: var(--line); stroke-width: 1; fill: none; }
svg .tick { fill: var(--faint); font-size: 10.5px; }
svg .smooth { stroke: var(--accent); stroke-width: 1.8; fill: none; stroke-linejoin: round; }
svg .raw { stroke: var(--accent); stroke-width: 0.8; opacity: 0.35; fill: none; }
svg .dot { fill: var(--accent); }
.pictures { display: flex; flex-wrap: wrap; gap: 12px; align-items: flex-start; }
figure { margin: 0; max-width: 100%; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: 10px; }
figure .frame { overflow-x: auto; background: #ffffff; border-radius: 6px; }
figure img { display: block; max-width: 100%; height: auto; max-height: 500px; margin: 0 auto; }
figure audio { display: block; }
figure pre { margin: 0; padding: 8px; color: #1a1a1a; white-space: pre-wrap; }
figcaption { margin-top: 6px; }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
td, th { text-align: left; padding: 5px 10px 5px 0; border-top: 1px solid var(--line);
  vertical-align: top; }
tr:first-child > td, tr:first-child > th { border-top: 0; }
td.value { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; padding-right: 0; }
td.key { color: var(--faint); width: 45%; }
tr.main td:first-child > code { font-weight: 600; color: var(--accent); }
.columns { columns: 2; column-gap: 32px; }
.columns h3 { break-after: avoid; }
.columns tr { break-inside: avoid; }
.bar { height: 6px; border-radius: 3px; background: var(--line); overflow: hidden; margin: 6px 0; }
.bar i { display: block; height: 100%; background: var(--accent); }
summary { cursor: pointer; font-size: 14px; color: var(--accent); margin: 10px 0; }
@media (max-width: 720px) {
  main { padding: 18px 12px 40px; }
  .columns { columns: 1; }
  .tiles { grid-template-columns: repeat(2, 1fr); }
  .curves { grid-template-columns: 1fr; }
  figure img.wide { max-width: none; width: 640px; }
}
@media print { body { background: #ffffff; } figure, .curve, .card { break-inside: avoid; } }
"""
