"""CLIP-ES (Lin et al., CVPR 2023) as a baseline: boxes from a CLIP model and the name of a class, without training.

The paper reports it in its section 4.4 and Table 8. Method and constants are those of CLIP-ES's paper and public code;
where this room differs, the module that does so says why. Needs the extra ``clip`` and a local checkpoint.
"""
