Scheduled = float


def value_at(v, p):
    return v
