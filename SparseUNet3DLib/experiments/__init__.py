"""The protocols of Çiçek et al. (MICCAI 2016), Tables 1 to 3, on any data set that a TOML file describes."""
