"""Every setting of both records in a line: what it is, in which unit, and why one would change it.

The help of the command line and docs/configuration.md are made of these; the equations are in docs/model.md.
"""

from __future__ import annotations

DESCRIPTIONS = {
    # ModelConfig
    "architecture": "syncrec, or released: what the authors' code computes instead (for comparison only)",
    "channels": "C, the paper's r: width of all vectors; memory and time grow with it",
    "max_length": "T, events of a user that the model sees; longer histories are cut to their last T",
    "n_experts": "K, Transformers that the gates mix; 1 only without ACMoE",
    "n_cross_experts": "j, experts that learn from the cross task alone; the others from the single tasks",
    "n_layers": "layers of each expert",
    "n_heads": "attention heads of each expert; channels must be a multiple",
    "ffn_multiplier": "inner width of feed-forward nets, in channels",
    "dropout": "share of numbers dropped in training; .5 for sparse shop logs, less for dense ones that repeat",
    "gate": "step: a mixture a step, causal; sequence: the paper's, one a window, looks ahead in training",
    "loss": "softmax inside the domain; pairwise: the paper's; bce: the released code's",
    "full_softmax_items": "items of a domain above which its softmax is sampled (time); only for softmax",
    "sampled_negatives": "items drawn a batch and large domain; more is closer to the full softmax, and slower",
    "correction": "weight of a domain's cross loss: uniform 1; bounded: a smoothed lambda; paper: lambda itself",
    "correction_floor": "least weight of a domain, 0 to 1; only for bounded",
    "correction_momentum": "how slowly the smoothed gap follows, 0 to .9999; only for bounded",
    "temperature": "delta of the lambda recursion: lower moves lambda further from uniform",
    "mim": "SC-MIM, the loss that ties both views of a user, on or off",
    "mim_score": "rho of SC-MIM: sigmoid of a bilinear form (paper), or a scaled cosine",
    "mim_others_only": "leave the user's own pair out of the contrast sum, as the paper prints it",
    "stop_gradient": "keep each side's loss out of the other side's experts (ACMoE); false: all teach all",
    "eta": "share of the prediction losses, 0 to 1; the rest is SC-MIM's",
    "start": "item vectors start from co-occurrence (better on sparse logs), or random",
    "neighbours": "near items kept of each item and domain for the blend; 0: the blend is of both views alone",
    "fit_blend": "fit the blend's weights per domain on validation; false: the plain sum of both views",
    # TrainingConfig
    "epochs": "passes over the training events, at most",
    "batch_size": "users a step, over all processes; larger is faster and needs more memory",
    "learning_rate": "step size of AdamW after the warm-up; lower it where the loss stops being a number",
    "weight_decay": "AdamW's shrinking of weights, per step and unit of learning rate",
    "warmup_steps": "steps over which the learning rate rises to its value",
    "clip_norm": "longest gradient that is taken as it is; longer ones are shortened to it",
    "average_epochs": "time constant, in epochs, of the average of weights that is kept; 0: the last weights",
    "patience": "epochs without a better validation before training stops",
    "seed": "decides start weights, order of users, dropout and negatives",
    "threads": "CPU threads; 0: as many as torch takes",
    "device": "auto takes a CUDA GPU where there is one; cpu; cuda",
    "precision": "bf16 computes products in bfloat16: faster on GPUs and CPUs that multiply it natively",
    "deterministic": "only algorithms that give the same bits every time; slower on a GPU",
    "compile": "let torch.compile write code for this machine: minutes at first, faster steps after",
}
