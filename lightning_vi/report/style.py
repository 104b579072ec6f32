"""Style sheet of a report."""

STYLE = """
:root { color-scheme: light dark; --ink: #1c2026; --soft: #5d6773; --line: #dfe3e8; --page: #fff; --box: #f6f7f9;
  --accent: #0072b2; --hit: #fff3e0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e6ea; --soft: #9aa4af; --line: #323942; --page: #14171b;
  --box: #1d2127; --accent: #66b8e8; --hit: #3a2c17; }
  figure.drawing img { filter: invert(1) hue-rotate(180deg) brightness(1.2); } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 64rem; padding: 2.5rem 1.5rem 4rem; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.35rem; line-height: 1.25; margin: 3.2rem 0 .3rem; padding-top: 1.2rem;
  border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; overflow-wrap: anywhere; }
p { margin: .5rem 0; max-width: 46rem; overflow-wrap: anywhere; }
p.how, figcaption, p.note, nav { color: var(--soft); }
p.finding { background: var(--hit); border-radius: .4rem; padding: .6rem .9rem; }
p.note, figcaption { font-size: .86rem; }
nav { margin: 1.6rem 0 0; font-size: .9rem; }
nav a { color: var(--accent); margin-right: 1.1rem; text-decoration: none; display: inline-block; }
nav a:hover { text-decoration: underline; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 1rem 0; font-size: .93rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .8rem; margin: 1.6rem 0 0; }
.tile { background: var(--box); border-radius: .6rem; padding: .8rem 1rem; }
.tile span { display: block; color: var(--soft); font-size: .84rem; line-height: 1.3; }
.tile b { display: block; font-size: 1.55rem; font-weight: 600; line-height: 1.35; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .88rem; margin: .9rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .34rem .9rem .34rem 0; border-bottom: 1px solid var(--line); vertical-align: middle;
  white-space: nowrap; }
th { color: var(--soft); font-weight: 600; } th.n, td.n { text-align: right; }
td.wrap { white-space: normal; } tr.hit td { background: var(--hit); }
figure { display: inline-block; vertical-align: top; margin: 1.2rem 1.2rem 1.2rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figure.picture img { background: #fff; border-radius: .4rem; }
figcaption { margin-top: .4rem; max-width: 46rem; }
img.thumb { image-rendering: pixelated; display: block; border-radius: .2rem; }
.gallery { display: flex; flex-wrap: wrap; gap: .7rem; margin: 1rem 0; }
.gallery div { font-size: .8rem; color: var(--soft); text-align: center; }
.hist { max-width: 26rem; margin: .8rem 0 1.4rem; } .hist svg { width: 100%; height: 6.5rem; display: block; }
.hist rect { fill: var(--accent); opacity: .75; } .hist div { display: flex; justify-content: space-between; gap: 1rem;
  border-top: 1px solid var(--line); font-size: .82rem; color: var(--soft); padding-top: .15rem; }
.bars { max-width: 30rem; margin: .8rem 0; font-size: .86rem; }
.bars div { display: grid; grid-template-columns: 7.5rem 1fr 3.5rem; align-items: center; gap: .6rem;
  line-height: 1.7; }
.bars span { overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.bars i { background: var(--accent); opacity: .75; height: .8rem; border-radius: .1rem; min-width: 1px; }
.bars b { font-weight: 400; color: var(--soft); text-align: right; }
@media (max-width: 40rem) { body { padding: 1.4rem 1rem 3rem; } h1 { font-size: 1.5rem; }
  dl { grid-template-columns: 1fr; } dd { margin-bottom: .4rem; } }
@media print { :root { --ink: #000; --soft: #444; --line: #ccc; --page: #fff; --box: #f4f4f4; --accent: #0072b2;
  --hit: #fff3e0; } body { max-width: none; padding: 0; font-size: 10.5pt; } nav { display: none; }
  .scroll { overflow: visible; } figure img { min-width: 0 !important; filter: none !important; }
  table { font-size: 7.5pt; } th, td { white-space: normal; padding-right: .5rem; }
  figure, tr, .tile { break-inside: avoid; } h2, h3 { break-after: avoid; } }
"""
