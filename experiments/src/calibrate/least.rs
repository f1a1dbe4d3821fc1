//! Robust least squares: Huber's loss by iterated weights over the normal equations.

/// Residuals beyond so many times their median size count linearly, not squared.
const BEND: f64 = 2.0;
const ITERATIONS: usize = 15;

/// The coefficients of `rows` of (regressors, value, weight); `None` when they cannot be told apart. Cost: rows × n²,
/// [`ITERATIONS`] times.
pub(super) fn robust(rows: &[(Vec<f64>, f64, f64)]) -> Option<Vec<f64>> {
    let count = rows.first()?.0.len();
    if rows.iter().filter(|row| row.2 > 0.0).count() < count {
        return None;
    }
    let mut factors = vec![1.0; rows.len()];
    let mut found = solve(rows, &factors, count)?;
    for _ in 0..ITERATIONS {
        let residuals: Vec<f64> = rows.iter().map(|row| (row.1 - dot(&row.0, &found)).abs()).collect();
        let mut sizes: Vec<f64> = residuals.iter().zip(rows).filter(|(_, row)| row.2 > 0.0).map(|(r, _)| *r).collect();
        let middle = sizes.len() / 2;
        sizes.select_nth_unstable_by(middle, f64::total_cmp);
        let bend = BEND * sizes[middle].max(1e-9);
        for (factor, residual) in factors.iter_mut().zip(&residuals) {
            *factor = (bend / residual.max(1e-12)).min(1.0);
        }
        let next = solve(rows, &factors, count)?;
        let moved = next.iter().zip(&found).map(|(a, b)| (a - b).abs() / (b.abs() + 1e-6)).fold(0.0, f64::max);
        found = next;
        if moved < 1e-6 {
            break;
        }
    }
    Some(found)
}

pub(super) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Cholesky's method on scaled normal equations.
fn solve(rows: &[(Vec<f64>, f64, f64)], factors: &[f64], n: usize) -> Option<Vec<f64>> {
    let (mut matrix, mut right) = (vec![0.0; n * n], vec![0.0; n]);
    for ((x, y, weight), factor) in rows.iter().zip(factors) {
        let w = weight * factor;
        for i in 0..n {
            if x[i] == 0.0 {
                continue;
            }
            right[i] += w * x[i] * y;
            for j in 0..=i {
                matrix[i * n + j] += w * x[i] * x[j];
            }
        }
    }
    // Unit diagonal, so that what is nothing but rounding can be told.
    let scale: Vec<f64> = (0..n).map(|i| matrix[i * n + i].sqrt()).collect();
    if scale.iter().any(|s| !s.is_finite() || *s <= 0.0) {
        return None;
    }
    let mut lower = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let known: f64 = (0..j).map(|k| lower[i * n + k] * lower[j * n + k]).sum();
            let rest = matrix[i * n + j] / (scale[i] * scale[j]) - known;
            lower[i * n + j] = if i == j {
                if rest < 1e-9 {
                    return None;
                }
                rest.sqrt()
            } else {
                rest / lower[j * n + j]
            };
        }
    }
    let mut half = vec![0.0; n];
    for i in 0..n {
        let known: f64 = (0..i).map(|k| lower[i * n + k] * half[k]).sum();
        half[i] = (right[i] / scale[i] - known) / lower[i * n + i];
    }
    let mut found = vec![0.0; n];
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| lower[k * n + i] * found[k]).sum();
        found[i] = (half[i] - known) / lower[i * n + i];
    }
    Some(found.iter().zip(&scale).map(|(value, scale)| value / scale).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use gorgo_core::rng;
    use rand::RngExt;

    #[test]
    fn coefficients_come_back_although_one_in_ten_rows_is_wild() {
        let mut draw = rng::stream(1, "least", 0);
        let rows: Vec<_> = (0..2000)
            .map(|i| {
                let x = vec![1.0, draw.random::<f64>() * 1e4, draw.random::<f64>()];
                let wild = if i % 10 == 0 { 3000.0 * draw.random::<f64>() } else { 0.0 };
                let y = dot(&x, &[40.0, 0.057, -7.0]) + draw.random::<f64>() - 0.5 + wild;
                (x, y, 1.0)
            })
            .collect();
        let found = robust(&rows).unwrap();
        for (found, truth) in found.iter().zip([40.0, 0.057, -7.0]) {
            assert!((found / truth - 1.0).abs() < 0.02, "{found} {truth}");
        }
    }

    #[test]
    fn what_cannot_be_told_apart_has_no_answer() {
        let rows: Vec<_> = (0..50).map(|i| (vec![1.0, 2.0], f64::from(i), 1.0)).collect();
        assert_eq!(robust(&rows), None);
        assert_eq!(robust(&rows[..1]), None);
        assert_eq!(robust(&[]), None);
        let idle: Vec<_> = (0..50).map(|i| (vec![1.0, f64::from(i)], f64::from(i), 0.0)).collect();
        assert_eq!(robust(&idle), None);
    }
}
