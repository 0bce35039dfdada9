# Tests the settings of stages.

run "dev" {
  variables {
    stage = "dev"
  }
  module {
    source = "./env"
  }
  assert {
    condition     = output.settings.cidr_block == "10.0.0.0/16" && output.settings.comb_port == 3333 && output.settings.comb_idle_s == 300
    error_message = "got ${jsonencode(output.settings)}"
  }
}

run "prod" {
  variables {
    stage = "prod"
  }
  module {
    source = "./env"
  }
  assert {
    condition     = output.settings.cidr_block == "10.1.0.0/16" && output.settings.hbee_memory_mb == 2048
    error_message = "got ${jsonencode(output.settings)}"
  }
}

run "unknown" {
  command = plan
  variables {
    stage = "qa"
  }
  module {
    source = "./env"
  }
  expect_failures = [output.settings]
}
