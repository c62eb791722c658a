"""New pictures joined to the clip that they came from: its own pictures and its sound stay as they are.

    plan = plan_join(Path("clip.mp4"))          # can its packets be kept, and what must the new pictures be like?
    finish = ExactJoin(plan) if plan.exact else ReencodeJoin(plan)
    finish(part, target, metadata={}, chapters=())

plan_join: what a clip is; ExactJoin: its packets, then the new ones; ReencodeJoin: where packets cannot be kept;
WithSound: only the new pictures, with the clip's sound.
"""

from causvid_cli.video.join.joins import ExactJoin, ReencodeJoin, WithSound
from causvid_cli.video.join.plan_join import JoinPlan, Tail, plan_join

__all__ = ["ExactJoin", "JoinPlan", "ReencodeJoin", "Tail", "WithSound", "plan_join"]
