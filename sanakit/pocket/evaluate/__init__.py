"""How well pocket draws what people ask for."""
