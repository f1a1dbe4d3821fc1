//! CMA-ES for a handful of numbers, written out because a crate for it brings a linear algebra library for a 6 × 6 matrix.

use gorgo_core::rng;
use rand::RngExt;

/// CMA-ES (Hansen's tutorial, with its default constants): the best point and its loss after at most `most` evaluations.
/// Deterministic.
pub(super) fn minimise<E>(
    start: &[f64],
    step: f64,
    most: usize,
    losses: impl Fn(&[Vec<f64>]) -> Result<Vec<f64>, E>,
) -> Result<(Vec<f64>, f64), E> {
    let n = start.len();
    let size = n as f64;
    let lambda = 4 + (3.0 * size.ln()).floor() as usize;
    let mu = lambda / 2;
    let raw: Vec<f64> = (1..=mu).map(|i| ((lambda as f64 + 1.0) / 2.0).ln() - (i as f64).ln()).collect();
    let total: f64 = raw.iter().sum();
    let weights: Vec<f64> = raw.iter().map(|w| w / total).collect();
    let mu_eff = 1.0 / weights.iter().map(|w| w * w).sum::<f64>();
    let c_c = (4.0 + mu_eff / size) / (size + 4.0 + 2.0 * mu_eff / size);
    let c_s = (mu_eff + 2.0) / (size + mu_eff + 5.0);
    let c_1 = 2.0 / ((size + 1.3).powi(2) + mu_eff);
    let c_mu = (2.0 * (mu_eff - 2.0 + 1.0 / mu_eff) / ((size + 2.0).powi(2) + mu_eff)).min(1.0 - c_1).max(0.0);
    let damping = 1.0 + c_s + 2.0 * (((mu_eff - 1.0) / (size + 1.0)).sqrt() - 1.0).max(0.0);
    let expected = size.sqrt() * (1.0 - 1.0 / (4.0 * size) + 1.0 / (21.0 * size * size));
    let (mut mean, mut sigma) = (start.to_vec(), step);
    let (mut path_c, mut path_s) = (vec![0.0; n], vec![0.0; n]);
    let mut covariance: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    let (mut best, mut least) = (start.to_vec(), f64::INFINITY);
    let mut draw = rng::stream(1, "cma-es", 0);
    for generation in 1..=most / lambda {
        let (axes, lengths) = eigen(&covariance);
        let along = |z: &[f64]| -> Vec<f64> {
            (0..n).map(|i| (0..n).map(|k| axes[i][k] * lengths[k].max(1e-20).sqrt() * z[k]).sum()).collect()
        };
        let steps: Vec<Vec<f64>> =
            (0..lambda).map(|_| along(&(0..n).map(|_| normal(&mut draw)).collect::<Vec<_>>())).collect();
        let points: Vec<Vec<f64>> =
            steps.iter().map(|y| mean.iter().zip(y).map(|(m, y)| m + sigma * y).collect()).collect();
        let found = losses(&points)?;
        let mut order: Vec<usize> = (0..lambda).collect();
        order.sort_by(|&a, &b| found[a].total_cmp(&found[b]));
        if found[order[0]] < least {
            (best, least) = (points[order[0]].clone(), found[order[0]]);
        }
        let moved: Vec<f64> = (0..n).map(|i| weights.iter().zip(&order).map(|(w, &k)| w * steps[k][i]).sum()).collect();
        mean = mean.iter().zip(&moved).map(|(m, y)| m + sigma * y).collect();
        // C^(-1/2) times the step of the mean.
        let white: Vec<f64> = (0..n)
            .map(|i| {
                (0..n)
                    .map(|k| {
                        let inner: f64 = (0..n).map(|j| axes[j][k] * moved[j]).sum();
                        axes[i][k] * inner / lengths[k].max(1e-20).sqrt()
                    })
                    .sum()
            })
            .collect();
        let keep = (c_s * (2.0 - c_s) * mu_eff).sqrt();
        path_s = path_s.iter().zip(&white).map(|(p, w)| (1.0 - c_s) * p + keep * w).collect();
        let length = path_s.iter().map(|p| p * p).sum::<f64>().sqrt();
        let settled = 1.0 - (1.0 - c_s).powi(2 * generation as i32);
        let steady = length / settled.sqrt() < (1.4 + 2.0 / (size + 1.0)) * expected;
        let keep = if steady { (c_c * (2.0 - c_c) * mu_eff).sqrt() } else { 0.0 };
        path_c = path_c.iter().zip(&moved).map(|(p, y)| (1.0 - c_c) * p + keep * y).collect();
        let lost = if steady { 0.0 } else { c_1 * c_c * (2.0 - c_c) };
        for i in 0..n {
            for j in 0..n {
                let rank: f64 = weights.iter().zip(&order).map(|(w, &k)| w * steps[k][i] * steps[k][j]).sum();
                covariance[i][j] =
                    (1.0 - c_1 - c_mu + lost) * covariance[i][j] + c_1 * path_c[i] * path_c[j] + c_mu * rank;
            }
        }
        sigma = (sigma * ((c_s / damping) * (length / expected - 1.0)).exp()).clamp(1e-6, 1.0);
        if sigma < 1e-3 {
            break;
        }
    }
    Ok((best, least))
}

fn normal(draw: &mut rng::ChaCha8Rng) -> f64 {
    let (u, v): (f64, f64) = (1.0 - draw.random::<f64>(), draw.random());
    (-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()
}

/// Eigenvectors (as columns) and eigenvalues of a symmetric matrix by Jacobi rotations.
fn eigen(matrix: &[Vec<f64>]) -> (Vec<Vec<f64>>, Vec<f64>) {
    let n = matrix.len();
    let mut a = matrix.to_vec();
    let mut axes: Vec<Vec<f64>> = (0..n).map(|i| (0..n).map(|j| f64::from(u8::from(i == j))).collect()).collect();
    for _ in 0..50 {
        let off: f64 = (0..n).flat_map(|i| (0..i).map(move |j| (i, j))).map(|(i, j)| a[i][j] * a[i][j]).sum();
        if off < 1e-24 {
            break;
        }
        for p in 0..n {
            for q in p + 1..n {
                if a[p][q] == 0.0 {
                    continue;
                }
                let theta = (a[q][q] - a[p][p]) / (2.0 * a[p][q]);
                let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
                let t = if theta == 0.0 { 1.0 } else { t };
                let (c, s) = (1.0 / (t * t + 1.0).sqrt(), t / (t * t + 1.0).sqrt());
                for row in &mut a {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
                let (above, below) = a.split_at_mut(q);
                for (x, y) in above[p].iter_mut().zip(&mut below[0]) {
                    (*x, *y) = (c * *x - s * *y, s * *x + c * *y);
                }
                for row in &mut axes {
                    (row[p], row[q]) = (c * row[p] - s * row[q], s * row[p] + c * row[q]);
                }
            }
        }
    }
    (axes, (0..n).map(|i| a[i][i]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_point_of_a_turned_valley_is_found() {
        let truth = [0.3, 0.8, 0.5, 0.1];
        let loss = |x: &[f64]| -> f64 {
            let d: Vec<f64> = x.iter().zip(truth).map(|(x, t)| x - t).collect();
            (d[0] + d[1]).powi(2) * 100.0 + (d[0] - d[1]).powi(2) + d[2].powi(2) * 10.0 + d[3].powi(2)
        };
        let all = |points: &[Vec<f64>]| Ok::<_, ()>(points.iter().map(|x| loss(x)).collect());
        let (best, least) = minimise(&[0.5; 4], 0.25, 1200, all).unwrap();
        assert!(least < 1e-4, "{least}");
        assert!(best.iter().zip(truth).all(|(b, t)| (b - t).abs() < 0.02), "{best:?}");
    }

    #[test]
    fn eigenvectors_make_the_matrix_again() {
        let matrix = vec![vec![4.0, 1.0, 0.5], vec![1.0, 3.0, -1.0], vec![0.5, -1.0, 2.0]];
        let (axes, values) = eigen(&matrix);
        for i in 0..3 {
            for j in 0..3 {
                let again: f64 = (0..3).map(|k| axes[i][k] * values[k] * axes[j][k]).sum();
                assert!((again - matrix[i][j]).abs() < 1e-9, "{i} {j}: {again}");
            }
        }
    }
}
