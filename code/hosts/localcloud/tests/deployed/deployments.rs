//! Deployments while queries run, and rollbacks.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use buzz_localcloud::lambda::{Fault, Function};
use buzz_localcloud::stack::{FUSE, HBEE};
use serde_json::json;

use crate::stack::{Deployed, GROUPS, ask, assert_answers, deploy, plain};

/// Deploys a build whose HBees fail, as HBees of another build do for an old Fuse: both functions are updated and
/// published, and the alias of Fuse is moved.
fn deploy_broken_build(deployed: &Deployed) {
    let lambda = &deployed.cloud.lambda;
    let bootstrap = deployed.path("broken");
    std::fs::write(&bootstrap, "#!/bin/sh\nexit 1\n").unwrap();
    std::fs::set_permissions(&bootstrap, std::fs::Permissions::from_mode(0o755)).unwrap();
    lambda.update(Function { bootstrap, ..lambda.latest(HBEE) });
    let hbee = format!("{HBEE}:{}", lambda.publish(HBEE));
    let mut fuse = lambda.latest(FUSE);
    fuse.environment.insert("BUZZ_HBEE_FUNCTION".to_string(), hbee);
    lambda.update(fuse);
    lambda.set_live(FUSE, &lambda.publish(FUSE));
}

#[tokio::test(flavor = "multi_thread")]
async fn query_that_runs_during_a_deployment_ends_right_and_a_rollback_needs_no_build() {
    let deployed = deploy(|_| {}).await;
    let expected = plain(GROUPS).await;
    let (fuse, event) = (format!("{FUSE}:live"), ask(GROUPS, 1, json!({"tasks": 8, "concurrency": 2})));
    // The first tasks run while the deployment happens, and the others are invoked after it.
    deployed.cloud.lambda.fail_next(HBEE, &Fault::Slow(Duration::from_secs(2)), 2);
    let ((answer, _), ()) = tokio::join!(deployed.invoke_function(&fuse, &event), async {
        deployed.until("an HBee works", |cloud| cloud.lambda.counts(HBEE).busy > 0).await;
        deploy_broken_build(&deployed);
    });
    assert_answers(&answer, &expected);

    let event = ask(GROUPS, 1, json!({"tasks": 2}));
    let (kind, message) = deployed.invoke_function(&fuse, &event).await.0.unwrap_err();
    assert_eq!(kind, "Unavailable", "the new build is in use, and broken: {message}");
    deployed.cloud.lambda.set_live(FUSE, "1");
    assert_answers(&deployed.invoke_function(&fuse, &event).await.0, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn doctor_finds_a_stack_healthy_with_and_without_combs() {
    for combs in [false, true] {
        let deployed = deploy(|stack| stack.combs = combs).await;
        let told = deployed.doctor(combs).await;
        for part in
            ["fuse: `SELECT 1`", "hbee: 1 task", "delta: 1 task", "exchange: a join", "result: ", "later: ", "cost: "]
        {
            assert!(told.contains(&format!("ok    {part}")), "{told}");
        }
        assert!(told.lines().all(|line| line.starts_with("ok")), "{told}");
        assert_eq!(deployed.cloud.ecs.started(), if combs { 2 } else { 0 });
    }
}
