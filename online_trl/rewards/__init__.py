"""The live reward: custom reward functions, the scorer, its refresh while the policy trains."""
