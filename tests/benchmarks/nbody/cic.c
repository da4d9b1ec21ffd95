/* Cloud in cell of particles near their lattice, as plain as it gets: what a compiler makes of the textbook.
   x is [3][n^3] displacements in mesh cells, the lattice has one particle every r cells, offset from the nodes. */
#include <math.h>
#include <string.h>

static inline int wrap(int i, int m) {
    if (__builtin_expect(i >= 0 && i < m, 1)) return i; /* few particles cross the edge: spare the division */
    i %= m;
    return i < 0 ? i + m : i;
}

#define EACH_PARTICLE                                                                                   \
    for (int i = 0; i < n; i++)                                                                         \
        for (int j = 0; j < n; j++)                                                                     \
            for (int k = 0; k < n; k++)
#define CORNERS                                                                                         \
    long p = ((long)i * n + j) * n + k;                                                                 \
    float fx = x[p] + offset, fy = x[N + p] + offset, fz = x[2 * N + p] + offset;                       \
    float bx = floorf(fx), by = floorf(fy), bz = floorf(fz);                                            \
    float tx = fx - bx, ty = fy - by, tz = fz - bz;                                                     \
    int x0 = wrap((int)bx + i * r, m), y0 = wrap((int)by + j * r, m);                       \
    int z0 = wrap((int)bz + k * r, m);                                                            \
    long x1 = wrap(x0 + 1, m), y1 = wrap(y0 + 1, m), z1 = wrap(z0 + 1, m);                              \
    long a = ((long)x0 * m + y0) * m, b = ((long)x0 * m + y1) * m;                                      \
    long c = (x1 * m + y0) * m, d = (x1 * m + y1) * m;                                                  \
    float sx = 1 - tx, sy = 1 - ty, sz = 1 - tz;

void paint(const float *restrict x, int n, int r, float offset, float *restrict field) {
    int m = n * r;
    long N = (long)n * n * n;
    memset(field, 0, sizeof(float) * m * m * m);
    EACH_PARTICLE {
        CORNERS
        field[a + z0] += sx * sy * sz; field[a + z1] += sx * sy * tz;
        field[b + z0] += sx * ty * sz; field[b + z1] += sx * ty * tz;
        field[c + z0] += tx * sy * sz; field[c + z1] += tx * sy * tz;
        field[d + z0] += tx * ty * sz; field[d + z1] += tx * ty * tz;
    }
}

/* three fields [3][m^3] at the particles, [3][n^3] */
void gather(const float *restrict x, int n, int r, float offset, const float *restrict fields, float *restrict out) {
    int m = n * r;
    long N = (long)n * n * n, M = (long)m * m * m;
    EACH_PARTICLE {
        CORNERS
        for (int axis = 0; axis < 3; axis++) {
            const float *f = fields + axis * M;
            float low = sy * (sz * f[a + z0] + tz * f[a + z1]) + ty * (sz * f[b + z0] + tz * f[b + z1]);
            float high = sy * (sz * f[c + z0] + tz * f[c + z1]) + ty * (sz * f[d + z0] + tz * f[d + z1]);
            out[axis * N + p] = sx * low + tx * high;
        }
    }
}

/* fourth-order central differences of a periodic field, [3][m^3] */
void slope(const float *restrict f, int m, float *restrict out) {
    long M = (long)m * m * m, sx = (long)m * m, sy = m;
    for (int i = 0; i < m; i++) {
        long im = wrap(i - 1, m) * sx, ip = wrap(i + 1, m) * sx, imm = wrap(i - 2, m) * sx, ipp = wrap(i + 2, m) * sx;
        for (int j = 0; j < m; j++) {
            long jm = wrap(j - 1, m) * sy, jp = wrap(j + 1, m) * sy, jmm = wrap(j - 2, m) * sy, jpp = wrap(j + 2, m) * sy;
            long row = i * sx + j * sy;
            for (int k = 0; k < m; k++) {
                out[row + k] = (f[ip + j * sy + k] - f[im + j * sy + k]) * (2.0f / 3) -
                               (f[ipp + j * sy + k] - f[imm + j * sy + k]) * (1.0f / 12);
                out[M + row + k] = (f[i * sx + jp + k] - f[i * sx + jm + k]) * (2.0f / 3) -
                                   (f[i * sx + jpp + k] - f[i * sx + jmm + k]) * (1.0f / 12);
            }
            for (int k = 2; k < m - 2; k++)
                out[2 * M + row + k] = (f[row + k + 1] - f[row + k - 1]) * (2.0f / 3) - (f[row + k + 2] - f[row + k - 2]) * (1.0f / 12);
            for (int e = 0; e < 4; e++) {
                int k = e < 2 ? e : m - 4 + e;
                out[2 * M + row + k] = (f[row + wrap(k + 1, m)] - f[row + wrap(k - 1, m)]) * (2.0f / 3) -
                                       (f[row + wrap(k + 2, m)] - f[row + wrap(k - 2, m)]) * (1.0f / 12);
            }
        }
    }
}
