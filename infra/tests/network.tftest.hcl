# Tests both kinds of network with a mocked provider: no account, no server.

mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["us-east-2a", "us-east-2b", "us-east-2c"] }
  }
  mock_resource "aws_vpc" {
    defaults = { ipv6_cidr_block = "2600:1f16:abc:d00::/56" }
  }
}

variables {
  name       = "buzz-rust-dev"
  region     = "us-east-2"
  cidr_block = "10.0.0.0/16"
  zones      = 2
  comb_port  = 3333
}

run "public_ipv4" {
  variables {
    comb_network = "public_ipv4"
  }
  module {
    source = "./modules/network"
  }

  assert {
    condition     = aws_vpc.main.assign_generated_ipv6_cidr_block && aws_vpc.main.enable_dns_support && aws_vpc.main.enable_dns_hostnames
    error_message = "the network must be dual-stack, with names"
  }
  assert {
    condition     = aws_subnet.functions[*].cidr_block == ["10.0.0.0/20", "10.0.16.0/20"]
    error_message = "functions must be in dual-stack subnets, got ${jsonencode(aws_subnet.functions[*].cidr_block)}"
  }
  assert {
    condition     = aws_subnet.functions[*].ipv6_cidr_block == ["2600:1f16:abc:d00::/64", "2600:1f16:abc:d01::/64"]
    error_message = "functions need IPv6 ranges, got ${jsonencode(aws_subnet.functions[*].ipv6_cidr_block)}"
  }
  assert {
    condition     = aws_subnet.combs[*].cidr_block == ["10.0.128.0/20", "10.0.144.0/20"] && !anytrue(aws_subnet.combs[*].ipv6_native)
    error_message = "combs must be in dual-stack subnets, got ${jsonencode(aws_subnet.combs[*].cidr_block)}"
  }
  assert {
    condition     = !anytrue(concat(aws_subnet.functions[*].map_public_ip_on_launch, aws_subnet.combs[*].map_public_ip_on_launch))
    error_message = "no subnet may give public addresses by itself"
  }
  assert {
    condition     = length(aws_internet_gateway.combs) == 1 && aws_route.combs_ipv4[0].route_table_id == aws_route_table.combs.id
    error_message = "combs need the internet gateway to fetch their image over IPv4"
  }
  assert {
    condition     = aws_route.functions_ipv6.egress_only_gateway_id == aws_egress_only_internet_gateway.main.id && aws_route.functions_ipv6.gateway_id == null
    error_message = "functions leave by the egress-only gateway"
  }
  assert {
    condition     = aws_vpc_endpoint.s3.vpc_endpoint_type == "Gateway" && aws_vpc_endpoint.s3.route_table_ids == toset([aws_route_table.functions.id])
    error_message = "S3 must be reached by a gateway endpoint, which is free, from the functions' route table"
  }
  assert {
    condition = alltrue([for rule in values(aws_vpc_security_group_ingress_rule.way) :
    rule.cidr_ipv4 == null && rule.security_group_id == aws_security_group.combs.id && rule.from_port == 3333 && rule.to_port == 3333 && rule.ip_protocol == "tcp"])
    error_message = "combs admit nothing but their port, and no IPv4 range"
  }
  assert {
    condition     = toset([for rule in values(aws_vpc_security_group_ingress_rule.way) : rule.referenced_security_group_id if rule.cidr_ipv6 == null]) == toset([aws_security_group.functions.id, aws_security_group.combs.id])
    error_message = "combs admit the functions' group and their own"
  }
  assert {
    condition     = [for rule in values(aws_vpc_security_group_ingress_rule.way) : rule.cidr_ipv6 if rule.cidr_ipv6 != null] == ["2600:1f16:abc:d00::/64", "2600:1f16:abc:d01::/64"]
    error_message = "of IPv6 ranges combs admit the function subnets' only"
  }
}

run "ipv6_only" {
  variables {
    comb_network = "ipv6_only"
    zones        = 3
  }
  module {
    source = "./modules/network"
  }

  assert {
    condition     = length(aws_internet_gateway.combs) == 0 && length(aws_route.combs_ipv4) == 0 && alltrue([for rule in values(aws_vpc_security_group_egress_rule.way) : rule.cidr_ipv4 == null])
    error_message = "without IPv4 there is no internet gateway"
  }
  assert {
    condition     = length(aws_subnet.combs) == 3 && alltrue([for subnet in aws_subnet.combs : subnet.cidr_block == null && subnet.ipv6_native && !subnet.enable_dns64])
    error_message = "combs' subnets must be IPv6 only, without DNS64"
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.combs : subnet.private_dns_hostname_type_on_launch == "resource-name" && subnet.enable_resource_name_dns_aaaa_record_on_launch])
    error_message = "IPv6-only subnets name their hosts by resource"
  }
  assert {
    condition     = alltrue([for subnet in aws_subnet.functions : subnet.cidr_block != null && subnet.ipv6_native != true])
    error_message = "functions stay dual-stack: AWS takes no IPv6-only subnet for them"
  }
  assert {
    condition     = aws_route.combs_ipv6.egress_only_gateway_id == aws_egress_only_internet_gateway.main.id
    error_message = "combs leave by the egress-only gateway"
  }
}
