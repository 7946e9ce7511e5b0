"""From what models said to what is learnt: filters with reason codes, selection, training rows."""
