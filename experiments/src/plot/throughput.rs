//! Latency against throughput: what each step of a bench reached, and what its users waited.

use super::frame::{Axis, EDGE, Entry, Frame, WIDTH, head, head_height, number};
use super::sheet::{Sheet, color, dash};

/// What one step of a bench reached: name, requests a second, TTFT p50 and p95 (ms).
pub type Step = (String, f64, [f64; 2]);

/// The curve through all steps, ordered by throughput; `None` with fewer than two.
pub(super) fn curve(steps: &[Step]) -> Option<Sheet> {
    let mut steps: Vec<&Step> = steps.iter().filter(|(_, x, ms)| *x > 0.0 && ms.iter().all(|ms| *ms > 0.0)).collect();
    steps.sort_by(|a, b| a.1.total_cmp(&b.1));
    let ([_, _, ..], Some(last)) = (steps.as_slice(), steps.last()) else { return None };
    let entry =
        |(i, label): (usize, &str)| Entry { label: label.to_owned(), color: color(i), dash: dash(i), line: true };
    let entries: Vec<Entry> = ["TTFT p50", "TTFT p95"].into_iter().enumerate().map(entry).collect();
    let top = head_height(&entries);
    let mut sheet = Sheet::new(WIDTH, top + 420.0 + EDGE);
    head(&mut sheet, "Latency against throughput", &entries);
    let all = || steps.iter().flat_map(|step| step.2);
    let (low, high) = (all().fold(f64::INFINITY, f64::min), all().fold(0.0, f64::max));
    let x = Axis::linear("answered requests a second", 0.0, last.1, 8);
    let y = Axis::log("time to first token (ms, logarithmic)", low, high.max(low * 1.1));
    let frame = Frame::draw(&mut sheet, (EDGE, top), (WIDTH - EDGE, top + 420.0), x, y);
    for i in 0..entries.len() {
        let line = steps.iter().map(|step| frame.at((step.1, step.2[i]))).collect();
        sheet.hover(entries[i].label.clone(), |sheet| sheet.line(line, color(i), 2.0, dash(i)));
        for (name, rate, ms) in &steps {
            let said = format!("{name}: {} ms at {}/s", number(ms[i]), number(*rate));
            sheet.hover(said, |sheet| sheet.dot(frame.at((*rate, ms[i])), 4.0, color(i)));
        }
    }
    Some(sheet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_joined_by_throughput_and_one_step_is_no_curve() {
        let step = |name: &str, rate, ms: f64| (name.to_owned(), rate, [ms, 2.0 * ms]);
        let steps = [step("throughput", 9.0, 400.0), step("constant at 5", 5.0, 90.0), step("synchronous", 1.0, 50.0)];
        let svg = curve(&steps).unwrap().svg().unwrap();
        assert!(svg.contains("constant at 5: 90 ms at 5/s") && svg.contains("answered requests a second"), "{svg}");
        assert!(curve(&steps[..1]).is_none());
        assert!(curve(&[step("a", 0.0, 5.0), step("b", 1.0, 5.0)]).is_none(), "a step without answers has no place");
    }
}
