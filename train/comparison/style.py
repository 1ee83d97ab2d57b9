"""The look of the results page: light and dark, on a screen and on paper."""

CSS = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --ink: #1b2330; --soft: #5d6878; --line: #dfe3ea;
  --accent: #2457d6; --seed: #0f8a5f; --theirs: #9aa5b5; --good: #0b7a4b; --bad: #b3261e;
  --mark: #eef3ff; --warn: #fdeceb; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161d; --card: #1a2029; --ink: #e6eaf1; --soft: #98a3b5; --line: #2c3442; --accent: #7ea6ff;
    --seed: #4cc995; --theirs: #66728a; --good: #58d39b; --bad: #ff8a80; --mark: #1d2a45; --warn: #3a2020; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif; }
main, header, footer { max-width: 1180px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: 28px; margin: 0 0 4px; letter-spacing: -0.01em; }
h2 { font-size: 21px; margin: 40px 0 2px; }
h3 { font-size: 15px; margin: 22px 0 8px; }
p, li { color: var(--soft); margin: 4px 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 4px 18px 14px;
  margin: 14px 0; overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--soft); white-space: nowrap; }
th, td { padding: 9px 12px 9px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
tr:last-child td { border-bottom: 0; }
td.model { overflow-wrap: anywhere; min-width: 150px; }
.first { font-weight: 650; font-size: 16px; }
.second, .small, .delta { color: var(--soft); font-size: 13px; white-space: nowrap; }
.small { display: block; white-space: normal; }
.delta { display: block; }
.better { color: var(--good); }
.worse { color: var(--bad); }
.chip { display: inline-block; border: 1px solid var(--line); border-radius: 99px; padding: 0 8px; font-size: 12px;
  color: var(--soft); white-space: nowrap; }
.empty { color: var(--theirs); font-size: 13px; }
.own td, .other td { white-space: nowrap; }
.own td:first-child, .other td:first-child { white-space: normal; }
.own td { background: var(--mark); font-weight: 600; }
.own td.empty { font-weight: 400; }
.own td:first-child { box-shadow: inset 3px 0 var(--accent); padding-left: 10px; }
.other td { color: var(--soft); }
.worth { background: var(--warn); color: var(--bad); border-radius: 8px; padding: 8px 14px; margin: 12px 0; }
.legend span { margin-right: 18px; white-space: nowrap; }
.dot { display: inline-block; width: 10px; height: 10px; border-radius: 50%; margin-right: 6px; }
svg.strips { width: 100%; height: auto; margin-top: 8px; font: 13px system-ui, sans-serif; }
svg .name { fill: var(--ink); font-weight: 600; }
svg .end, svg .axis { fill: var(--soft); font-size: 12px; }
svg .rail { stroke: var(--line); stroke-width: 2; }
svg circle { stroke: var(--card); stroke-width: 1.5; }
svg .theirs, .dot.theirs { fill: var(--theirs); background: var(--theirs); }
svg .seed, .dot.seed { fill: var(--seed); background: var(--seed); }
svg .ours, .dot.ours { fill: var(--accent); background: var(--accent); }
svg .worthless { fill: var(--bad); }
details { margin: 10px 0; }
summary { cursor: pointer; font-weight: 600; font-size: 14px; padding: 6px 0; }
ul { padding-left: 20px; }
footer { padding-bottom: 48px; font-size: 13px; }
@media print { body { background: none; } .card { border: 0; padding: 0; } details { display: none; } }
"""
