"""Many videos at once: manifest in, Parquet out, killed and continued at any time (Ray Data)"""
