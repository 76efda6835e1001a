/* Updates by products of many rows of float32 factors. */
#include "factor_tiles.cuh"

UPDATE_TILE(float, f32, PLAIN_THREADS, ADAMW, adamw)
UPDATE_TILE(float, f32, PLAIN_THREADS, SGD, sgd)
UPDATE_TILE(float, f32, PLAIN_THREADS, SGD_MOMENTUM, sgd_momentum)
