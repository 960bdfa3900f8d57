//! **Pure.** How far work is: what was said last of each thing, within bounds.
//!
//! Whoever holds progress adds what is newer to it: a report may name the fraction alone, or one
//! counter of several. So a report that was dropped takes nothing away, and one that comes twice
//! changes nothing.

use serde_json::{Map, Value};

use crate::{
    limits::{NAME_BYTES_MAX, PROGRESS_COUNTERS_MAX, PROGRESS_MESSAGE_BYTES_MAX},
    pb,
};

/// Adds what a newer report says. What is out of bounds is cut, or left out.
pub fn add(whole: &mut pb::Progress, newer: &pb::Progress) {
    let fraction = newer.fraction.filter(|f| f.is_finite()).map(|f| f.clamp(0.0, 1.0));
    whole.fraction = fraction.or(whole.fraction);
    if !newer.message.is_empty() {
        let end = newer.message.floor_char_boundary(PROGRESS_MESSAGE_BYTES_MAX);
        newer.message.get(..end).unwrap_or_default().clone_into(&mut whole.message);
    }
    if let Some(more) = &newer.counters {
        whole.counters = count(whole.counters.as_ref(), more);
    }
}

/// Numbers by name; a name that is there has the newer number.
fn count(known: Option<&pb::Json>, more: &pb::Json) -> Option<pb::Json> {
    let mut all = known.map(numbers).unwrap_or_default();
    for (name, number) in numbers(more) {
        if all.contains_key(&name) || all.len() < PROGRESS_COUNTERS_MAX {
            all.insert(name, number);
        }
    }
    (!all.is_empty()).then(|| pb::Json { text: Value::Object(all).to_string() })
}

fn numbers(json: &pb::Json) -> Map<String, Value> {
    let Ok(Value::Object(mut fields)) = serde_json::from_str(&json.text) else {
        return Map::new();
    };
    fields.retain(|name, value| value.is_number() && name.len() <= NAME_BYTES_MAX);
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(fraction: Option<f64>, message: &str, counters: &str) -> pb::Progress {
        let counters = (!counters.is_empty()).then(|| pb::Json { text: counters.into() });
        pb::Progress { attempt: 1, fraction, message: message.into(), counters }
    }

    fn whole(reports: &[pb::Progress]) -> pb::Progress {
        let mut whole = pb::Progress { attempt: 1, ..pb::Progress::default() };
        for report in reports {
            add(&mut whole, report);
        }
        whole
    }

    #[test]
    fn what_a_report_does_not_name_stays() {
        let reports = [
            said(Some(0.25), "reading", r#"{"rows": 10}"#),
            said(None, "", r#"{"errors": 1, "rows": 20}"#),
            said(Some(0.5), "", ""),
        ];
        let once = whole(&reports);
        assert_eq!((once.fraction, once.message.as_str()), (Some(0.5), "reading"));
        let counters = once.counters.as_ref().expect("counters").to_value();
        assert_eq!(counters, serde_json::json!({ "rows": 20, "errors": 1 }));
        let again = [&reports[..], &reports[2..]].concat();
        assert_eq!(whole(&again), once, "a report that comes twice changes nothing");
    }

    #[test]
    fn what_is_out_of_bounds_is_cut_or_left_out() {
        let check = |fraction: f64, expected: Option<f64>| {
            assert_eq!(whole(&[said(Some(fraction), "", "")]).fraction, expected);
        };
        check(2.0, Some(1.0));
        check(-1.0, Some(0.0));
        check(f64::NAN, None);
        check(f64::INFINITY, None);
        let long = "ä".repeat(PROGRESS_MESSAGE_BYTES_MAX);
        let message = whole(&[said(None, &long, "")]).message;
        assert_eq!(message.len(), PROGRESS_MESSAGE_BYTES_MAX);
        for none in ["[1]", "7", "{", r#"{"a": "text", "b": {"c": 1}, "d": null}"#] {
            assert_eq!(whole(&[said(None, "", none)]).counters, None, "{none}");
        }
        let name = "n".repeat(NAME_BYTES_MAX + 1);
        assert_eq!(whole(&[said(None, "", &format!(r#"{{"{name}": 1}}"#))]).counters, None);
    }

    #[test]
    fn only_so_many_counters_are_kept_and_those_go_on_counting() {
        let many = |value: u32| {
            let fields = (0..2 * PROGRESS_COUNTERS_MAX).map(|n| format!("\"c{n:03}\":{value}"));
            said(None, "", &format!("{{{}}}", fields.collect::<Vec<_>>().join(",")))
        };
        let counters = whole(&[many(1), many(2)]).counters.expect("counters").to_value();
        let counters = counters.as_object().expect("an object").clone();
        assert_eq!(counters.len(), PROGRESS_COUNTERS_MAX);
        assert!(counters.values().all(|n| n == 2), "{counters:?}");
    }
}
