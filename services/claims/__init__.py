"""What a reply claims, sentence by sentence, and how far it stands in what the reply was made from. Pure."""
