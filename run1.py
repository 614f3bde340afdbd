import sys, time, importlib
from tests.models.explorer import explore, told
mod = importlib.import_module(f"tests.models.{sys.argv[1]}")
cls = getattr(mod, sys.argv[2])
only = sys.argv[3:] 
tot=0
if not only:
    m = cls()
    for s in m.scopes():
        if s in cls.large and "-l" not in sys.argv: continue
        t=time.process_time(); r=explore(m,s); dt=time.process_time()-t; tot+=dt
        print(f"{s:70} worlds {r.worlds:8} ends {r.ends:5} {dt:.2f}s", r.breach or "")
        if r.breach: print("\n".join(told(m, r.trace)))
for k,rem in cls.removals.items():
    if only and k not in only: continue
    m=cls(k,*rem.also); t=time.process_time(); r=explore(m,rem.scope); dt=time.process_time()-t; tot+=dt
    print(f"-{k:22} {rem.scope[:40]:40} {r.worlds:7} {dt:.2f}s {'OK' if r.breach is rem.breaks else 'XXX'} {r.breach} in {len(r.trace)-1}")
    if rem.also:
        r2=explore(cls(k),rem.scope); print("      alone:", r2.breach, "" if r2.breach==rem.alone else "XXX")
    for one in rem.also:
        if rem.also and not only:
            pass
    if only: print("\n".join(told(m, r.trace)))
print("total", tot)
