"""Model packs: known (`catalogue`), found (`packs`), chosen (`resolve`), loaded (`load`), got (`install`)."""
