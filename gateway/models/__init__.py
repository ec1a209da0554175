"""Who answers: the model replicas as the gateway sees them, and which of them a call goes to."""
