"""Model packs: known (`catalogue`), found and verified (`packs`), chosen (`resolve`), loaded (`load`), got (`install`)."""
