/* The weights of RoIAlign: for each RoI and axis a small matrix, bins by pixels, kept as terms.

   Never compiled for several CPUs, as the sums are: a fused multiply-add could move a sample across
   the border of the map, where torchvision has it on the other side. */

#ifndef ROI_WEIGHTS_H
#define ROI_WEIGHTS_H

#include <Python.h>
#include <math.h>
#include <stdint.h>

/* One map and the RoIs pooled from it; result is (RoIs, bins_y, bins_x, channels), or the map. */
typedef struct {
    const void *source;
    void *result;
    const float *rois;   /* each: image, x0, y0, x1, y1 */
    const int64_t *rows; /* which rois, and which rows of the pooled tensor */
    Py_ssize_t row_count;
    int height, width, channels, bins_y, bins_x;
    float scale;
    int sampling_ratio, aligned, bf16;
} Job;

typedef struct {
    int source;
    float weight;
} Term;

/* The weights of one RoI on one axis. */
typedef struct {
    int bins, pixels;
    int low, high;     /* the samples touch pixels low <= pixel < high */
    float *matrix;     /* bins x pixels; all zero between two RoIs */
    Term *terms;       /* the non-zero weights, ordered by target */
    Py_ssize_t *begin; /* terms of target t: begin[t] <= index < begin[t + 1] */
} Axis;

static int make_axis(Axis *axis, int bins, int pixels)
{
    Py_ssize_t cells = (Py_ssize_t)bins * pixels;
    axis->bins = bins;
    axis->pixels = pixels;
    axis->matrix = PyMem_RawCalloc(cells, sizeof(float));
    axis->terms = PyMem_RawCalloc(cells, sizeof(Term));
    axis->begin = PyMem_RawCalloc((Py_ssize_t)(bins > pixels ? bins : pixels) + 1,
                                  sizeof(Py_ssize_t));
    return axis->matrix && axis->terms && axis->begin;
}

static void free_axis(Axis *axis)
{
    PyMem_RawFree(axis->matrix);
    PyMem_RawFree(axis->terms);
    PyMem_RawFree(axis->begin);
}

/* Samples a bin. None where the number is no int, as for NaN or a box of 1e12 pixels. */
static int samples_per_bin(float bin, int sampling_ratio)
{
    float wanted = ceilf(bin);
    if (sampling_ratio > 0)
        return sampling_ratio;
    return wanted >= 1 && wanted < 2147483648.0f ? (int)wanted : 0;
}

static float position(float start, float bin, int b, int sample, int samples)
{
    return start + b * bin + (sample + .5f) * bin / samples;
}

/* The first sample at or behind pixel -1; positions rise with the samples. */
static int first_inside(float start, float bin, int b, int samples)
{
    int low = 0, high = samples;
    while (low < high) {
        int middle = low + (high - low) / 2;
        if (position(start, bin, b, middle, samples) < -1)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void add_sample(Axis *axis, int b, float at)
{
    float *weights = axis->matrix + (Py_ssize_t)b * axis->pixels;
    int last = axis->pixels - 1, pixel = at > 0 ? (int)at : 0, touched;
    float beyond = at > 0 ? at - pixel : 0;
    if (pixel >= last) {
        weights[last] += 1;
        pixel = last;
        touched = axis->pixels;
    } else {
        weights[pixel] += 1 - beyond;
        weights[pixel + 1] += beyond;
        touched = pixel + 2;
    }
    axis->low = pixel < axis->low ? pixel : axis->low;
    axis->high = touched > axis->high ? touched : axis->high;
}

/* Passes over samples outside of the map without a visit: a box of 1e9 pixels has 1e8 of them. */
static int fill_matrix(Axis *axis, const Job *job, float from, float to)
{
    float offset = job->aligned ? 0.5f : 0.0f, start = from * job->scale - offset;
    float extent = to * job->scale - offset - start;
    if (!job->aligned && extent < 1)
        extent = 1;
    float bin = extent / axis->bins;
    int samples = samples_per_bin(bin, job->sampling_ratio);
    axis->low = axis->pixels;
    axis->high = 0;
    for (int b = 0; b < axis->bins && axis->pixels > 0; b++) {
        for (int s = bin > 0 ? first_inside(start, bin, b, samples) : 0; s < samples; s++) {
            float at = position(start, bin, b, s, samples);
            if (bin > 0 && at > axis->pixels)
                break;
            if (at >= -1 && at <= axis->pixels)
                add_sample(axis, b, at);
        }
    }
    return samples;
}

static Py_ssize_t take_term(Axis *axis, Py_ssize_t count, int b, int pixel, int source, int samples)
{
    float *weight = axis->matrix + (Py_ssize_t)b * axis->pixels + pixel;
    if (*weight == 0)
        return count;
    axis->terms[count].source = source;
    axis->terms[count].weight = *weight / samples;
    *weight = 0;
    return count + 1;
}

/* Targets are bins, sources pixels. */
static void terms_of_bins(Axis *axis, const Job *job, float from, float to)
{
    int samples = fill_matrix(axis, job, from, to);
    Py_ssize_t count = 0;
    for (int b = 0; b < axis->bins; b++) {
        for (int pixel = axis->low; pixel < axis->high; pixel++)
            count = take_term(axis, count, b, pixel, pixel, samples);
        axis->begin[b + 1] = count;
    }
}

/* Targets are pixels from `low` on, sources bins. */
static void terms_of_pixels(Axis *axis, const Job *job, float from, float to)
{
    int samples = fill_matrix(axis, job, from, to);
    Py_ssize_t count = 0;
    for (int pixel = axis->low; pixel < axis->high; pixel++) {
        for (int b = 0; b < axis->bins; b++)
            count = take_term(axis, count, b, pixel, b, samples);
        axis->begin[pixel - axis->low + 1] = count;
    }
}

#endif
