// Decisions from p-values, exactly as the service makes them.

/** The budgets a slider offers: all that differ, thinned to a few hundred on a log scale. */
export function budgets(m) {
  const all = [];
  let last = 0;
  for (let k = 1; k <= Math.max(1, Math.floor((m + 1) / 2)); k += 1) {
    if (all.length === 0 || k >= last * 1.02) {
      all.push(k / (m + 1));
      last = k;
    }
  }
  return all;
}

/** The score above which an image is anomalous under a budget; `scores` ascending. */
export function thresholdFor(scores, budget) {
  const m = scores.length;
  let within = 0;
  while (within < m && (within + 1) / (m + 1) <= budget) within += 1;
  return scores[m - Math.max(within, 1)];
}

/** Whether an image is anomalous: by its p-value, or by the model's own threshold. */
export function isAnomalous(row, budget, threshold) {
  return budget === null ? row.score > threshold : row.p_value <= budget;
}

/** 0.0123 -> "1.23%". */
export function percent(share) {
  return `${Number((100 * share).toPrecision(3))}%`;
}

/** Four significant digits. */
export function short(value) {
  return Number(value.toPrecision(4)).toString();
}
