"""The built-in agent, and the choice of models and the failures, which the runners share."""
