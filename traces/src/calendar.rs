//! Parses the timestamps of published traces to nanoseconds since 1970 UTC: date, time, fraction and a numeric offset.
//! There is no time-zone database and no clock.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// Nanoseconds since 1970-01-01 UTC of stamps such as `2023-04-09T00:02:53Z`, `2023-11-16 18:17:03.9799600`,
/// `2023-04-09 00:02:53 +00:00`. A stamp without an offset is taken as UTC. Returns `None` for any other
/// text, and for years before 1970 or after 2199.
pub fn parse_utc(text: &str) -> Option<u64> {
    let text = text.trim();
    // Years of four digits with hyphens only: `jiff` also reads forms that a plain number could be taken for.
    if text.as_bytes().get(4) != Some(&b'-') {
        return None;
    }
    let stamp = match offset_at(text) {
        None => text.parse::<DateTime>().ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp(),
        Some(at) => {
            let (clock, zone) = (text[..at].trim_end(), &text[at..]);
            let zone = if zone == "UTC" { "Z" } else { zone };
            format!("{clock}{zone}").parse::<Timestamp>().ok()?
        }
    };
    let in_range = (0..7_258_118_400).contains(&stamp.as_second()); // 1970 to 2199
    in_range.then(|| u64::try_from(stamp.as_nanosecond()).ok())?
}

/// Where the offset from UTC begins: `Z`, `UTC`, or a sign after the date.
fn offset_at(text: &str) -> Option<usize> {
    let of_name = ["Z", "z", "UTC"].iter().find_map(|name| text.ends_with(name).then(|| text.len() - name.len()));
    of_name.or_else(|| text.get(10..)?.rfind(['+', '-']).map(|at| at + 10))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn stamps_of_all_published_traces_are_read() {
        let base = 1_680_998_573_000_000_000;
        for text in [
            "2023-04-09T00:02:53Z",
            "2023-04-09 00:02:53",
            "2023-04-09 00:02:53+00:00",
            "2023-04-09 00:02:53.000 +00:00",
            "2023-04-08T20:02:53-0400",
            "2023-04-09 02:02:53+02",
            "2023-04-09 00:02:53 UTC",
        ] {
            assert_eq!(parse_utc(text), Some(base), "{text}");
        }
        assert_eq!(parse_utc("1970-01-01 00:00:00.9799600"), Some(979_960_000));
        assert_eq!(parse_utc("2024-02-29"), Some(1_709_164_800_000_000_000));
    }

    #[test]
    fn impossible_stamps_are_refused() {
        for text in [
            "",
            "2023-02-29",
            "2023-13-01",
            "2023-04-09 24:00:00",
            "2023-04-09T00:02:53+99:00",
            "1969-12-31",
            "é023-04-09",
        ] {
            assert_eq!(parse_utc(text), None, "{text}");
        }
    }

    /// Year, month and day of a day since 1970, by Hinnant's algorithm over 400-year eras.
    fn civil(days: i64) -> (i64, i64, i64) {
        let shifted = days + 719_468;
        let (era, day) = (shifted / 146_097, shifted % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let (day, month) = (day - (153 * month + 2) / 5 + 1, if month < 10 { month + 3 } else { month - 9 });
        (era * 400 + year + i64::from(month <= 2), month, day)
    }

    proptest! {
        #[test]
        fn a_written_instant_is_read_back(
            days in 0..84_006i64, second in 0..86_400i64, nanos in 0..1_000_000_000i64, offset in -1_080..=1_080i64
        ) {
            let (year, month, day) = civil(days);
            let (hour, minute) = (second / 3_600, second / 60 % 60);
            let (sign, away) = (if offset < 0 { '-' } else { '+' }, offset.abs());
            let text = format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}.{nanos:09}{sign}{:02}:{:02}",
                second % 60, away / 60, away % 60
            );
            let since = i128::from(days * 86_400 + second - offset * 60) * 1_000_000_000 + i128::from(nanos);
            prop_assert_eq!(parse_utc(&text), u64::try_from(since).ok(), "{}", text);
        }

        #[test]
        fn only_text_that_begins_with_a_date_in_range_is_a_stamp(
            text in "(19|20|21|22)?[0-9]{2}[-/][01][0-9]-[0-3][0-9][ T]?([0-2][0-9]:[0-6][0-9])?.{0,8}"
        ) {
            if let Some(nanos) = parse_utc(&text) {
                let year = text.split_once('-').and_then(|(year, _)| year.parse::<u64>().ok());
                prop_assert!(year.is_some_and(|year| (1970..2200).contains(&year)), "{}", text);
                let years = nanos / 31_556_952_000_000_000; // of 365.2425 days
                prop_assert!(year.is_some_and(|year| (1970 + years).abs_diff(year) <= 1), "{}: {}", text, nanos);
            }
        }
    }
}
