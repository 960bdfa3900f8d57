use proptest::prelude::*;

use super::*;
use crate::limits::FILTER_BYTES_MAX;

const NOW: Timestamp = Timestamp::from_unix(1_800_000_000, 0);

fn read(text: &str) -> Filter {
    parse(text, NOW).expect("a valid filter").expect("not empty")
}

#[test]
fn filters_are_read_as_people_write_them() {
    let check = |text: &str, printed: &str| assert_eq!(read(text).to_string(), printed, "{text}");
    check("state=failed", "state = failed");
    check("state != FAILED", "NOT state = failed");
    check("cause:timeout and type = 'a b'", "cause = timeout AND task_type = \"a b\"");
    check("tags:gpu OR tag = \"x\\\"y\"", "tag = \"gpu\" OR tag = \"x\\\"y\"");
    check("(state=failed)", "state = failed");
    check("priority >= 7", "priority >= 7");
    check("age > 1h", "created_at < \"2027-01-15T07:00:00.000000Z\"");
    check("created_at > 2026-01-01", "created_at > \"2026-01-01T00:00:00.000000Z\"");
    check("deadline<=2026-01-01T10:00:00+02:00", "deadline <= \"2026-01-01T08:00:00.000000Z\"");
    check(
        "state=failed AND (tag:a OR NOT title:é)",
        "state = failed AND (tag = \"a\" OR NOT title:\"é\")",
    );
}

#[test]
fn an_empty_filter_fits_every_task() {
    assert_eq!(parse("  ", NOW), Ok(None));
}

#[test]
fn mistakes_are_told_with_their_place() {
    let check = |text: &str, says: &str| {
        let error = parse(text, NOW).expect_err(text);
        assert_eq!(error.violations[0].field, "filter");
        let problem = &error.violations[0].problem;
        assert!(problem.contains(says), "{text}: {problem}");
    };
    check("colour = red", "at character 1: no field \"colour\"; there are state, cause, tag");
    check("state = failed AND healing", "at character 20: \"healing\" is compared with nothing");
    check("state = blue", "\"blue\" is none of pending, running");
    check("state > failed", "has no order");
    check("state=failed AND tag:a OR tag:b", "at character 24: AND beside OR");
    check("title = two words", "at character 13");
    check("title = \"open", "at character 9: a quote");
    check("(state=failed", "expected `)`");
    check("state=failed)", "a `)` that nothing opened");
    check("priority = high", "no whole number");
    check("age > fortnight", "no duration");
    check("created_at:now", "use <, <=, > or >=");
    check("finished_at > yesterday", "no time such as");
    check("title = ", "expected a value");
    check("title = \"a\0b\"", "NUL");
    check(&"(".repeat(4_000), "nested more than");
    check(&"NOT ".repeat(1_000), "nested more than");
    check(&"a".repeat(4_097), "at most 4096 bytes");
}

fn filters() -> impl Strategy<Value = Filter> {
    let order = prop::sample::select(vec![
        Order::Less,
        Order::LessOrEqual,
        Order::Equal,
        Order::GreaterOrEqual,
        Order::Greater,
    ]);
    let text = prop::sample::select(TextField::ALL.to_vec());
    let time = prop::sample::select(TimeField::ALL.to_vec());
    let leaf = prop_oneof![
        prop::sample::select(STATES.to_vec()).prop_map(Filter::State),
        prop::sample::select(Cause::ALL.to_vec()).prop_map(Filter::Cause),
        "[^\0]{0,12}".prop_map(Filter::Tag),
        (text.clone(), "[^\0]{0,12}").prop_map(|(f, t)| Filter::Is(f, t)),
        (text, "[^\0]{0,12}").prop_map(|(f, t)| Filter::Has(f, t)),
        (order.clone(), any::<i64>()).prop_map(|(o, n)| Filter::Priority(o, n)),
        (time, order, 0..Timestamp::MAX.micros()).prop_map(|(f, o, t)| Filter::Time(
            f,
            o,
            Timestamp::from_micros(t)
        )),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::And),
            prop::collection::vec(inner.clone(), 2..4).prop_map(Filter::Or),
            inner.prop_map(|f| Filter::Not(Box::new(f))),
        ]
    })
}

proptest! {
    #[test]
    fn a_printed_filter_is_read_as_the_same(filter in filters()) {
        let text = filter.to_string();
        prop_assume!(text.len() <= FILTER_BYTES_MAX);
        prop_assert_eq!(parse(&text, NOW), Ok(Some(filter)), "{}", text);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "\\PC{0,80}") {
        let _ = parse(&text, NOW);
    }

    #[test]
    fn no_jumble_of_tokens_makes_the_parser_panic(
        tokens in prop::collection::vec(prop::sample::select(vec![
            "state", "=", "!=", "<", ":", "failed", "AND", "OR", "NOT", "(", ")", "\"", "'", "\\", " ", "é", "age", "1h",
        ]), 0..40)
    ) {
        let _ = parse(&tokens.concat(), NOW);
    }
}
