"""The style sheet of the page of a replay. Both colours of a pair stand out from paper and from each other, also for
who tells no red from green."""

from __future__ import annotations

STYLE = """
:root{color-scheme:light dark;--ink:#1c2230;--quiet:#5a6478;--paper:#fff;--panel:#f5f7fa;--line:#e1e6ee;
--line-strong:#9aa5b8;--recorded:#2f6fb3;--other:#b8570f;--heat:47,111,179;--mark:#b8570f}
@media (prefers-color-scheme:dark){:root{--ink:#e7ebf3;--quiet:#9aa6ba;--paper:#12161e;--panel:#1a202b;--line:#2b3443;
--line-strong:#66748c;--recorded:#6fb1f2;--other:#f2a05c;--heat:111,177,242;--mark:#f2a05c}}
*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1040px;margin:0 auto;padding:40px 24px 80px}h1{font-size:28px;line-height:1.2;margin:0 0 4px}
h2{font-size:19px;margin:44px 0 6px}h3{font-size:15px;margin:24px 0 4px}p{margin:6px 0 12px;max-width:76ch}
.lead,.quiet,caption{color:var(--quiet)}svg .quiet{fill:var(--quiet)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:12px;margin:24px 0}
.card{background:var(--panel);border:1px solid var(--line);border-radius:10px;padding:14px 16px}
.card b{display:block;font-size:22px;font-variant-numeric:tabular-nums}.card span{color:var(--quiet);font-size:13px}
.wide{overflow-x:auto}table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:10px 0 16px;min-width:50%}
th,td{padding:6px 12px;border-bottom:1px solid var(--line);text-align:right;vertical-align:top}
thead th{color:var(--quiet);font-weight:600;border-bottom:2px solid var(--line)}
th[scope=row]{min-width:150px}th[scope=row],td.text,th.text{text-align:left}th[scope=row]{font-weight:600}
caption{text-align:left;font-size:13px;padding-bottom:4px}.heat td{text-align:center;min-width:104px}
.heat td b{display:block;font-size:17px}.heat td span{font-size:12px;opacity:.8}
.same{outline:2px solid var(--line-strong);outline-offset:-2px}
svg{width:100%;max-width:760px;height:auto;display:block;margin:10px 0}svg text{fill:var(--ink);font-size:12px}
.key{display:flex;gap:20px;font-size:13px;margin:6px 0}.key i{display:inline-block;width:11px;height:11px;
border-radius:50%;margin-right:7px}code{font:13px ui-monospace,Menlo,Consolas,monospace;overflow-wrap:anywhere}
details{margin:8px 0}summary{cursor:pointer;color:var(--quiet)}.good{border-left:4px solid var(--recorded)}
.bad{border-left:4px solid var(--mark)}
@media print{main{padding:0;max-width:none}h2{break-after:avoid}svg,table{break-inside:avoid}}
"""
