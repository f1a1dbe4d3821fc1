//! Requests of `generate = "wildchat-like"`: a window of a longer trace, in which as many conversations go on as in the
//! long run; with `day_s`, of whole days.

use super::SpecError;
use super::workload::WorkloadSpec;
use gorgo_core::request::TraceRequest;
use gorgo_core::{Span, Time};
use gorgo_traces::workload::Options;
use gorgo_traces::workload::generate::{Generate, wildchat_like};

/// Time in which conversations of a generated trace fill up to its rate, s.
const WARM_S: f64 = 900.0;

impl WorkloadSpec {
    /// The requests of a generated trace for one seed.
    ///
    /// # Errors
    /// A setting of the generator is out of its range.
    pub(super) fn generate(&self, seed: u64, options: &Options) -> Result<Vec<TraceRequest>, SpecError> {
        let mut generator = Generate { seed, max_output_tokens: options.max_output_tokens, ..Generate::default() };
        if let Some(rate) = self.rate.or(self.session_rate) {
            generator.rate = rate;
        }
        if let Some(requests) = self.requests {
            generator.requests = requests;
        } else if let Some(duration) = self.duration_s {
            // Conversations last minutes: enough to fill up before the window that is kept, and to outlast it.
            generator.requests = (generator.rate * (duration * 1.5 + WARM_S * 2.0)) as usize + 100;
        }
        if let Some(day) = self.day_s {
            return self.generate_day(generator, day, options);
        }
        let mut requests = wildchat_like(&generator)?.requests;
        if let Some(duration) = self.duration_s {
            keep_the_rate(&mut requests, generator.rate, duration);
        }
        self.finish(requests, options)
    }

    /// Generates whole days, so that each country has its share and the day its mean rate, and keeps what comes after
    /// the conversations filled up.
    fn generate_day(
        &self,
        mut generator: Generate,
        day_s: f64,
        options: &Options,
    ) -> Result<Vec<TraceRequest>, SpecError> {
        let warm_s = if self.requests.is_some() { 0.0 } else { WARM_S };
        if let Some(duration) = self.duration_s.filter(|_| self.requests.is_none()) {
            let days = ((warm_s + duration) / day_s).ceil();
            generator.requests = (generator.rate * days * day_s).ceil() as usize;
        }
        generator.day_s = day_s;
        let hour = self.start_hour.unwrap_or(0.0) - 24.0 * warm_s / day_s;
        generator.start_hour = Some(hour.rem_euclid(24.0));
        let mut requests = wildchat_like(&generator)?.requests;
        begin_at(&mut requests, warm_s);
        self.finish(requests, options)
    }

    fn finish(&self, mut requests: Vec<TraceRequest>, options: &Options) -> Result<Vec<TraceRequest>, SpecError> {
        if let Some(most) = options.max_input_tokens {
            requests.retain(|r| r.input_tokens <= most);
        }
        for request in &mut requests {
            request.at = Time::from_ms(request.at.ms() * options.time_scale);
        }
        Ok(requests)
    }
}

/// Takes a window of a long generated trace in which as many conversations go on as in the long run: a trace that
/// begins with nothing but first turns has a fraction of its rate in the first minutes. Later turns of conversations
/// that began before the window keep their whole history in their prompts.
fn keep_the_rate(requests: &mut Vec<TraceRequest>, rate: f64, duration_s: f64) {
    let last = requests.last().map_or(0.0, |r| r.at.secs());
    // Where the rate has been reached: the middle of the time in which conversations start.
    begin_at(requests, (last / 2.0).min((requests.len() as f64 / rate - duration_s) * 0.75).max(0.0));
}

/// Leaves out what comes before `from`, s, which becomes the start.
fn begin_at(requests: &mut Vec<TraceRequest>, from: f64) {
    let start = Time::ZERO + Span::from_secs(from);
    requests.retain(|r| r.at >= start);
    requests.iter_mut().for_each(|r| r.at = Time(r.at.since(start).0));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Experiment;
    use std::path::{Path, PathBuf};

    fn load(more: &str, seed: u64) -> Result<Vec<TraceRequest>, String> {
        let text = format!(
            "workload = {{ generate = \"wildchat-like\", rate = 4.0{more} }}\n\
             fleet = {{ replicas = [{{ name = \"a\", region = \"aws:us-east-1\" }}] }}"
        );
        let experiment = Experiment::parse("x.toml", PathBuf::new(), &text, &[], &[]).map_err(|e| e.to_string())?;
        let plan = experiment.plan().map_err(|e| e.to_string())?;
        plan[0].spec.workload.load(Path::new(""), seed).map_err(|e| e.to_string())
    }

    /// Share of a country's requests in the hours `from..to` of a day that takes an hour.
    fn share(requests: &[TraceRequest], country: [u8; 2], from: f64, to: f64) -> f64 {
        let hour = |r: &TraceRequest| r.at.secs() / 150.0;
        let of: Vec<f64> = requests.iter().filter(|r| r.country == Some(country)).map(hour).collect();
        of.iter().filter(|hour| (from..to).contains(*hour)).count() as f64 / of.len() as f64
    }

    #[test]
    fn a_day_has_its_mean_rate_and_each_country_its_night() {
        let day = load(", duration_s = 3600.0, day_s = 3600.0", 3).unwrap();
        assert!((13_600..15_200).contains(&day.len()), "{}", day.len());
        assert!(day.is_sorted_by_key(|r| r.at) && day.iter().any(|r| r.turn > 1));
        // From 6 to 12 h UTC it is night in the United States and day in Russia.
        let (russia, america) = (share(&day, *b"RU", 6.0, 12.0), share(&day, *b"US", 6.0, 12.0));
        assert!(russia > 0.25 && america < 0.2, "{russia} {america}");
        let even = load(", duration_s = 3600.0", 3).unwrap();
        let (russia, america) = (share(&even, *b"RU", 6.0, 12.0), share(&even, *b"US", 6.0, 12.0));
        assert!((russia - 0.25).abs() < 0.03 && (america - 0.25).abs() < 0.03, "{russia} {america}");
        let later = load(", duration_s = 3600.0, day_s = 3600.0, start_hour = 6.0", 3).unwrap();
        assert!(share(&later, *b"US", 0.0, 6.0) < 0.2, "the first quarter begins at 6 h");
    }

    #[test]
    fn a_day_is_a_setting_of_a_generated_trace_within_bounds() {
        for (more, message) in [
            (", start_hour = 3.0", "start_hour needs day_s"),
            (", day_s = 10.0", "day_s = 10 must lie between 60 and 86400"),
            (", day_s = 600.0, start_hour = 25.0", "start_hour = 25 must lie between 0 and 24"),
        ] {
            let error = load(more, 1).unwrap_err();
            assert!(error.contains(message), "{error}");
        }
    }
}
