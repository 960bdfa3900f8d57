use super::*;

fn supervisor() -> (Supervisor, CancellationToken) {
    let shutdown = CancellationToken::new();
    (Supervisor::new("registry", shutdown.clone()), shutdown)
}

async fn until(shutdown: CancellationToken) -> anyhow::Result<()> {
    shutdown.cancelled().await;
    Ok(())
}

async fn failure(tasks: Supervisor) -> String {
    format!("{:#}", tasks.join().await.expect_err("a failure"))
}

#[tokio::test]
async fn all_tasks_end_when_shutdown_is_asked_for() {
    let (mut tasks, shutdown) = supervisor();
    tasks.spawn("project", until(shutdown.clone()));
    tasks.spawn_once("migrate", async { Ok(()) });
    shutdown.cancel();
    tasks.join().await.expect("a clean end");
}

#[tokio::test]
async fn the_first_failure_ends_the_others_and_is_returned() {
    let (mut tasks, shutdown) = supervisor();
    tasks.spawn("endpoints", until(shutdown.clone()));
    tasks.spawn("project", async { Err(anyhow!("the disk is full")) });
    assert_eq!(failure(tasks).await, "task project of registry failed: the disk is full");
    assert!(shutdown.is_cancelled());
}

#[tokio::test]
async fn an_early_end_is_a_failure() {
    let (mut tasks, _shutdown) = supervisor();
    tasks.spawn("project", async { Ok(()) });
    assert_eq!(
        failure(tasks).await,
        "task project of registry failed: ended before it was asked to"
    );
}

#[tokio::test]
async fn a_panic_is_a_failure() {
    let (mut tasks, _shutdown) = supervisor();
    tasks.spawn("project", async { panic!("no such row: {}", 7) });
    assert_eq!(failure(tasks).await, "task project of registry failed: panicked: no such row: 7");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_end_is_aborted_after_the_grace() {
    let (tasks, shutdown) = supervisor();
    let mut tasks = tasks.grace(Duration::from_secs(3));
    tasks.spawn("stuck", std::future::pending());
    shutdown.cancel();
    let begun = Instant::now();
    assert_eq!(failure(tasks).await, "stuck of registry did not end within 3s and was aborted");
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_service_without_tasks_ends_at_once() {
    supervisor().0.join().await.expect("nothing to wait for");
}
