"""The embedded models' wing: data set, training, evaluation, recipes; only the command imports it."""
