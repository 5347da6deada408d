"""ElasticTok's rule on the shared tokeniser: nested tail drop and a search for the token count."""
