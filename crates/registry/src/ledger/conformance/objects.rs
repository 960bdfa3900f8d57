//! Which large values somebody still needs.

use super::*;

fn place(name: &str) -> pb::Object {
    let digest = format!("SHA-256={}=", "a".repeat(43));
    pb::Object { name: name.into(), bytes: 300_000, digest }
}

fn with_input(id: &str, name: &str) -> pb::TaskSpec {
    pb::TaskSpec { input_object: Some(place(name)), ..shell(id) }
}

fn completed(id: &str, result: pb::Object) -> common::event::TaskEvent {
    let result_object = Some(result);
    let body = pb::Completed { attempt: 1, result_object, ..pb::Completed::default() };
    event(id, Kind::Completed(Box::new(body)))
}

/// Which of all objects of these tests are needed, when what ended before this second is not.
async fn needed(ledger: &dyn Ledger, second: i64) -> Vec<String> {
    let names = ["in-open", "in-over", "out-over", "shared", "unknown", "o'ne"].map(str::to_owned);
    let since = Timestamp::from_unix(1_800_000_000 + second, 0);
    let mut needed = ledger.needed(&names, since).await.expect("an answer");
    needed.sort();
    needed
}

#[tokio::test]
async fn objects_are_needed_while_a_task_is_open_or_ended_lately() {
    on_both(async |ledger, _| {
        // The log's clock shows a second for each message.
        let messages = [
            message(1, created(with_input("open", "in-open"))),
            message(2, created(with_input("over", "in-over"))),
            message(3, completed("over", place("out-over"))),
            message(4, created(with_input("first", "shared"))),
            message(5, completed("first", place("out-first"))),
        ];
        for message in &messages {
            apply(&*ledger, std::slice::from_ref(message)).await.expect("recorded");
        }
        let row = find(&*ledger, "over").await.expect("the task");
        assert_eq!(row.fixed.spec.input_object, Some(place("in-over")));
        assert_eq!(report(&row).result_object, Some(place("out-over")));
        assert_eq!(needed(&*ledger, 3).await, ["in-open", "in-over", "out-over", "shared"]);
        assert_eq!(needed(&*ledger, 4).await, ["in-open", "shared"]);
        assert_eq!(needed(&*ledger, 6).await, ["in-open"]);
        // A task that runs an old one again needs its input as well; a repeat changes nothing.
        let again = message(6, created(with_input("second", "shared")));
        apply(&*ledger, std::slice::from_ref(&again)).await.expect("recorded");
        let repeat = Message { sequence: 7, ..again };
        apply(&*ledger, &[repeat]).await.expect("recorded");
        assert_eq!(needed(&*ledger, 100).await, ["in-open", "shared"]);
    })
    .await;
}

#[tokio::test]
async fn a_place_that_is_none_is_not_taken_over() {
    on_both(async |ledger, _| {
        let bad = pb::Object { name: "o'ne\0".into(), ..place("x") };
        let messages = [message(1, created(shell("t"))), message(2, completed("t", bad))];
        apply(&*ledger, &messages).await.expect("recorded");
        let row = find(&*ledger, "t").await.expect("the task");
        assert_eq!(report(&row).result_object, None);
        assert!(row.live.life.phase.is_terminal());
    })
    .await;
}
