"""`causvid bench`: what this machine takes for a model, part by part, beside the model's teacher."""
