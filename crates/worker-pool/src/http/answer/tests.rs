use super::*;

fn answer(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Answer {
    let headers = headers.iter().map(|(name, value)| {
        let value = value.parse().expect("a value");
        (reqwest::header::HeaderName::from_static(name), value)
    });
    Answer {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: headers.collect(),
        body: body.to_vec(),
        cut: false,
    }
}

/// What a status means, as `ok`, `permanent http_404` or `retry http_503 Some(5s)`.
fn check(http: &pb::Http, answer: &Answer, expected: &str) {
    let now = Timestamp::parse("2026-11-21T08:00:00Z").expect("a time");
    let shown = match judge(http, answer, "GET http://a/", now) {
        None => "ok".into(),
        Some(e) if e.retryable => format!("retry {} {:?}", e.code, e.retry_after),
        Some(e) => format!("permanent {}", e.code),
    };
    assert_eq!(shown, expected, "{}", answer.status);
}

#[test]
fn every_status_has_its_meaning() {
    let http = pb::Http::default();
    for (status, expected) in [
        (200, "ok"),
        (204, "ok"),
        (302, "permanent http_302"),
        (400, "permanent http_400"),
        (404, "permanent http_404"),
        (408, "retry http_408 None"),
        (425, "retry http_425 None"),
        (429, "retry http_429 None"),
        (500, "retry http_500 None"),
        (599, "retry http_599 None"),
    ] {
        check(&http, &answer(status, &[], b""), expected);
    }
    let own = pb::Http {
        ok_statuses: vec!["200".into(), "404".into()],
        retry_statuses: vec!["409".into()],
        ..pb::Http::default()
    };
    for (status, expected) in [
        (404, "ok"),
        (201, "permanent http_201"),
        (409, "retry http_409 None"),
        (500, "permanent http_500"),
    ] {
        check(&own, &answer(status, &[], b""), expected);
    }
}

#[test]
fn who_asks_to_be_left_alone_says_so_in_seconds_or_with_a_date() {
    let http = pb::Http::default();
    let asked = |status, text: &str, expected: &str| {
        check(&http, &answer(status, &[("retry-after", text)], b""), expected);
    };
    asked(429, "7", "retry http_429 Some(7s)");
    asked(503, " 120 ", "retry http_503 Some(120s)");
    asked(503, "Sat, 21 Nov 2026 08:01:30 GMT", "retry http_503 Some(90s)");
    asked(503, "Sat, 21 Nov 2026 07:00:00 GMT", "retry http_503 Some(0ns)");
    asked(503, "99999999999999999999999", "retry http_503 Some(18446744073709551615s)");
    asked(503, "soon", "retry http_503 None");
    asked(503, "-5", "retry http_503 None");
    asked(500, "7", "retry http_500 None");
}

fn value(answer: &Answer, secrets: &[&str]) -> Value {
    result(answer, &Redactor::new(secrets.iter().copied())).to_value()
}

#[test]
fn a_body_is_json_or_text_or_base64() {
    let kind = |headers: &[(&'static str, &str)], body: &[u8]| {
        let value = value(&answer(200, headers, body), &[]);
        assert_eq!(value["truncated"], false);
        (value["encoding"].as_str().expect("a word").to_owned(), value["body"].clone())
    };
    let json_type = [("content-type", "application/problem+json; charset=utf-8")];
    assert_eq!(kind(&json_type, b"{\"a\": [1]}"), ("json".into(), json!({"a": [1]})));
    assert_eq!(kind(&[], b"[1]"), ("json".into(), json!([1])));
    assert_eq!(kind(&[("content-type", "text/plain")], b"1"), ("text".into(), json!("1")));
    assert_eq!(kind(&json_type, b"{oops"), ("text".into(), json!("{oops")));
    assert_eq!(kind(&[], b"\xff\xfe"), ("base64".into(), json!("//4=")));
    assert_eq!(kind(&[], b""), ("none".into(), Value::Null));
    let deep = "[".repeat(100_000);
    assert_eq!(kind(&[], deep.as_bytes()).0, "text", "what nests too deeply is not read");
}

#[test]
fn the_largest_body_that_is_read_fits_a_result_and_one_that_was_cut_says_so() {
    for byte in [b'x', 0xff, 1] {
        let body = vec![byte; limits::HTTP_BODY_BYTES_MAX];
        let json = result(&answer(200, &[], &body), &Redactor::new([]));
        assert!(json.text.len() <= limits::OBJECT_BYTES_MAX);
        assert!(json.text.contains("\"truncated\":false"));
    }
    let large = format!("[{}1]", "1,".repeat(200_000));
    let shown = value(&answer(200, &[], large.as_bytes()), &[]);
    assert_eq!((&shown["encoding"], &shown["body"]), (&json!("text"), &json!(large)));
    let mut cut = answer(200, &[], b"{\"a\": 1}");
    cut.cut = true;
    let shown = value(&cut, &[]);
    assert_eq!((&shown["encoding"], &shown["truncated"]), (&json!("text"), &json!(true)));
    let many = "v".repeat(limits::HTTP_RESULT_HEADERS_BYTES_MAX);
    let shown = value(&answer(200, &[("x-large", &many), ("x-small", "v")], b""), &[]);
    assert_eq!(shown["headers"], json!({"x-small": "v"}));
}

#[test]
fn secrets_are_in_no_part_of_a_result() {
    let secret = "hunter/22";
    for body in
        [r#"{"a":"hunter/22","hunter/22":1}"#, r#"["hunter\/22", "\u0068unter/22"]"#, "hunter/22"]
    {
        let shown =
            value(&answer(200, &[("x-echo", secret)], body.as_bytes()), &[secret]).to_string();
        assert!(!shown.contains("hunter"), "{shown}");
        assert!(shown.contains("***"));
    }
    let login = answer(200, &[("set-cookie", "session=abc; HttpOnly"), ("x-a", "b")], b"");
    assert_eq!(value(&login, &[])["headers"], json!({"set-cookie": "***", "x-a": "b"}));
}
