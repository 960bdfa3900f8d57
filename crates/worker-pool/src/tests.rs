use super::name;

#[test]
fn a_worker_without_a_name_is_called_after_its_process() {
    assert_eq!(name(Some("gpu-1"), "x").expect("a token").as_str(), "gpu-1");
    assert_eq!(name(None, "host.example:42").expect("made").as_str(), "host-example-42");
    assert!(name(None, "..").expect("made").as_str().starts_with("worker-"));
    let error = name(Some("a b"), "x").expect_err("not a token");
    assert!(format!("{error:#}").contains("worker_pool.name"));
}
