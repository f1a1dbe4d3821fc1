//! The page at `/dashboard`: one file that loads no external resources. The Content-Security-Policy allows its script
//! and style by their hashes, so that no other script can run.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use gorgo_experiments::report::{CHARTS_SCRIPT, CHARTS_STYLE};
use gorgo_live::Dashboard;
use http::HeaderValue;
use sha2::{Digest, Sha256};

const FRAME: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/style.css");
const SCRIPT: &str = include_str!("dashboard/page.js");
/// Land by Natural Earth (1:110m, public domain) as a bitmap: hexadecimal rows from 77.5 degrees north down to 55 south,
/// a bit for each 2.5 degrees from 180 west on, set if the middle is land.
const LAND: &str = include_str!("dashboard/land.txt");

/// The page with its policy, and where its map finds regions.
pub(super) fn page() -> Dashboard {
    let land: Vec<&str> = LAND.lines().collect();
    let script = format!("{CHARTS_SCRIPT}\n{}", SCRIPT.replace("@LAND@", &land.join("/")));
    let style = format!("{CHARTS_STYLE}\n{STYLE}");
    let hash = |text: &str| BASE64.encode(Sha256::digest(text));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{}'; style-src 'sha256-{}'; connect-src 'self'; img-src data:; base-uri \
         'none'; form-action 'none'; frame-ancestors 'none'",
        hash(&script),
        hash(&style)
    );
    Dashboard {
        page: FRAME.replace("@STYLE@", &style).replace("@SCRIPT@", &script).into(),
        // Base64 and the words above are valid in a header.
        policy: HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'")),
        locate: |region| gorgo_traces::geo::place_of(region).map(|place| [place.lat, place.lon]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_for_nothing_elsewhere_and_its_policy_names_what_it_holds() {
        let Dashboard { page, policy, locate } = page();
        let page = String::from_utf8(page.to_vec()).unwrap();
        for (open, close, kind) in [("<script>", "</script>", "script"), ("<style>", "</style>", "style")] {
            assert_eq!((page.matches(open).count(), page.matches(close).count()), (1, 1));
            let inside = page.split(open).nth(1).unwrap().split(close).next().unwrap();
            let named = format!("{kind}-src 'sha256-{}'", BASE64.encode(Sha256::digest(inside)));
            assert!(policy.to_str().unwrap().contains(&named), "{kind}");
        }
        assert!(!page.contains("@LAND@") && !page.contains("@STYLE@") && !page.contains("@SCRIPT@"));
        let addresses = page.matches("http://").count() + page.matches("https://").count();
        assert_eq!(addresses, 1 + CHARTS_SCRIPT.matches("://").count(), "only the name of SVG and uPlot's own head");
        assert!(page.len() < 100_000, "{} bytes", page.len());
        assert!(
            locate("aws:eu-central-1")
                .is_some_and(|[lat, lon]| (45.0..55.0).contains(&lat) && (5.0..12.0).contains(&lon))
        );
        assert_eq!((locate("50.1,8.7"), locate("mars")), (Some([50.1, 8.7]), None));
    }

    #[test]
    fn the_land_has_a_bit_for_each_place() {
        let is_land = |lat: f64, lon: f64| {
            let (row, column) = (((78.75 - lat) / 2.5) as usize, ((lon + 180.0) / 2.5) as usize);
            let digit = LAND.lines().nth(row).unwrap().as_bytes()[column / 4] as char;
            digit.to_digit(16).unwrap() & (8 >> (column % 4)) > 0
        };
        assert!(LAND.lines().count() == 54 && LAND.lines().all(|row| row.len() == 36));
        for (lat, lon) in [(48.0, 8.0), (40.0, -100.0), (-10.0, -55.0), (-25.0, 135.0), (20.0, 0.0), (60.0, 100.0)] {
            assert!(is_land(lat, lon), "{lat} {lon}");
        }
        for (lat, lon) in [(30.0, -40.0), (0.0, -140.0), (-40.0, 80.0), (67.5, -5.0)] {
            assert!(!is_land(lat, lon), "{lat} {lon}");
        }
    }
}
