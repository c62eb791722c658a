"""`causvid distill`: videos or the drawn world -> teacher -> causal student -> model pack, stage by stage."""
