"""Istio's manifests, translated into calls on a `Mesh`: what works here works there.

    manifests = Manifests(services={"reviews": ("v1", "v2")}, entry="reviews")
    manifests, plan = manifests.apply(text)
    print(plan)  # mesh.route('reviews', weights={'v1': 90, 'v2': 10}, …)
    plan.run(mesh)

`subset.SUBSET` lists what is understood; all else is refused by name.
"""

from cnlab.mesh.istio.manifests import Manifests
from cnlab.mesh.istio.plan import Call, Plan

__all__ = ["Call", "Manifests", "Plan"]
