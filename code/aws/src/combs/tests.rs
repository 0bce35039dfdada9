use super::tasks::{family, same_definition};
use super::*;
use crate::settings::CombNetwork;

fn settings() -> CombSettings {
    CombSettings {
        cluster: "buzz-rust-cluster-dev".to_string(),
        task_definition: "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:7".to_string(),
        subnets: vec!["subnet-1".to_string()],
        security_groups: vec!["sg-1".to_string()],
        network: CombNetwork::PublicIpv4,
        port: 3333,
        start_max: Duration::from_secs(60),
        vcpus: 2.0,
        memory_mb: 4096,
    }
}

#[test]
fn tokens_fit_and_differ_where_combs_do() {
    let fleet_of = |change: &dyn Fn(&mut CombSettings)| {
        let mut settings = settings();
        change(&mut settings);
        fleet("dev", &settings)
    };
    let usual = fleet_of(&|_| {});
    assert_eq!(usual, fleet_of(&|settings| settings.port = 1));
    assert_ne!(usual, fleet_of(&|settings| settings.task_definition.push('1')));
    assert_ne!(usual, fleet_of(&|settings| settings.network = CombNetwork::Ipv6Only));
    assert_ne!(usual, fleet("prod", &settings()));

    let token = client_token(&usual, 63, u64::MAX);
    assert!(token.len() <= 64 && token.is_ascii(), "{token}");
    assert_ne!(client_token(&usual, 1, 0), client_token(&usual, 0, 1));
}

#[test]
fn a_definition_may_be_named_in_three_ways() {
    let running = "arn:aws:ecs:us-east-2:123456789012:task-definition/buzz-rust-hcomb-dev:7";
    for wanted in [running, "buzz-rust-hcomb-dev:7", "buzz-rust-hcomb-dev"] {
        assert_eq!(family(wanted), "buzz-rust-hcomb-dev");
        assert!(same_definition(wanted, running), "{wanted}");
    }
    assert!(!same_definition("buzz-rust-hcomb-dev:8", running));
    assert!(!same_definition("buzz-rust-hcomb", running));
}

#[test]
fn a_comb_is_dialled_in_its_network() {
    let task = CombTask {
        ipv4: Some("10.0.1.5".to_string()),
        ipv6: Some("2600:1f16::5".to_string()),
        started_by: "buzz-12".to_string(),
        ..CombTask::default()
    };
    let address = |network| task.address(&CombSettings { network, ..settings() }).unwrap().to_string();
    assert_eq!(address(CombNetwork::PublicIpv4), "http://10.0.1.5:3333/");
    assert_eq!(address(CombNetwork::Ipv6Only), "http://[2600:1f16::5]:3333/");
    assert_eq!(task.slot(), Some(12));
    assert_eq!(CombTask { started_by: "somebody".to_string(), ..task }.slot(), None);
}
