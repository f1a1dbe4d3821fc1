//! Parses the timestamps of published traces to nanoseconds since 1970 UTC: date, time, fraction and a numeric offset.
//! There is no time-zone database and no clock.

/// Nanoseconds since 1970-01-01 UTC of stamps such as `2023-04-09T00:02:53Z`, `2023-11-16 18:17:03.9799600`,
/// `2023-04-09 00:02:53 +00:00`. A stamp without an offset is taken as UTC. Returns `None` for any other
/// text, and for years before 1970 or after 2199.
pub fn parse_utc(text: &str) -> Option<u64> {
    let text = text.trim();
    let (date, rest) = (text.get(..10)?, text.get(10..)?);
    let mut parts = date.split('-');
    let (year, month, day) = (digits(parts.next()?, 4)?, digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    if parts.next().is_some() || !(1970..2200).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    if day < 1 || day > days_of_month(year, month) {
        return None;
    }
    let days = days_before(year, month) + day - 1;
    let (clock, offset) = split_offset(rest.strip_prefix(['T', 't', ' ']).unwrap_or(rest))?;
    let nanos = if clock.is_empty() { 0 } else { clock_ns(clock)? };
    u64::try_from((days * 86_400 - offset) as i128 * 1_000_000_000 + i128::from(nanos)).ok()
}

/// The clock part and the offset from UTC in seconds.
fn split_offset(rest: &str) -> Option<(&str, i64)> {
    let rest = rest.trim();
    if let Some(clock) = rest.strip_suffix(['Z', 'z']).or_else(|| rest.strip_suffix("UTC")) {
        return Some((clock.trim_end(), 0));
    }
    let Some(at) = rest.rfind(['+', '-']) else { return Some((rest, 0)) };
    let (clock, zone) = (rest[..at].trim_end(), &rest[at + 1..]);
    let (hours, minutes) = match zone.split_once(':') {
        Some((h, m)) => (digits(h, 2)?, digits(m, 2)?),
        None if zone.len() == 4 => (digits(zone.get(..2)?, 2)?, digits(zone.get(2..)?, 2)?),
        None => (digits(zone, 2)?, 0),
    };
    if hours > 18 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3_600 + minutes * 60;
    Some((clock, if rest[at..].starts_with('-') { -seconds } else { seconds }))
}

fn clock_ns(clock: &str) -> Option<u64> {
    let (whole, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let mut parts = whole.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let second = parts.next().map_or(Some(0), |s| digits(s, 2))?;
    // 60 is a leap second; it is kept as the first second of the next minute.
    if parts.next().is_some() || hour > 23 || minute > 59 || second > 60 || fraction.len() > 9 {
        return None;
    }
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u64 = format!("{fraction:0<9}").parse().ok()?;
    Some(u64::try_from(hour * 3_600 + minute * 60 + second).ok()? * 1_000_000_000 + nanos)
}

fn digits(text: &str, width: usize) -> Option<i64> {
    (text.len() == width && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

fn leap(year: i64) -> bool {
    (year % 4 == 0 && year % 100 != 0) || year % 400 == 0
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to the first of a month.
fn days_before(year: i64, month: i64) -> i64 {
    let years: i64 = (1970..year).map(|y| 365 + i64::from(leap(y))).sum();
    years + (1..month).map(|m| days_of_month(year, m)).sum::<i64>()
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
