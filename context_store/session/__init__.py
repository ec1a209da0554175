"""Sessions as resources: made, listed, forked, moved in and out, erased; their fragments, documents and quotas."""
