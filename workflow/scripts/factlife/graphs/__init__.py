"""Attribution graphs: which features of which layers lead to an answer, checked by interventions."""
