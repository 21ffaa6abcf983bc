"""How a recommender is judged: metrics per user, rankings of the whole catalogue, intervals."""
