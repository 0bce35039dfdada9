# A dual-stack network without idle cost: no NAT gateway and no interface endpoint. Functions connect to AWS over IPv6
# through the egress-only gateway, and to S3 through its gateway endpoint.

data "aws_availability_zones" "available" {
  state            = "available"
  exclude_zone_ids = ["use1-az3"] # does not support functions in a VPC

  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"] # excludes local zones
  }
}

locals {
  zones     = slice(data.aws_availability_zones.available.names, 0, var.zones)
  ipv6_only = var.comb_network == "ipv6_only"
}

resource "aws_vpc" "main" {
  cidr_block                       = var.cidr_block
  assign_generated_ipv6_cidr_block = true
  enable_dns_support               = true
  enable_dns_hostnames             = true

  tags = { Name = var.name }
}

# The default group of resources without a security group. It has no rules, so it blocks all traffic.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.main.id
}

resource "aws_egress_only_internet_gateway" "main" {
  vpc_id = aws_vpc.main.id

  tags = { Name = var.name }
}

# Functions: always dual-stack, since Lambda does not support IPv6-only subnets.

resource "aws_subnet" "functions" {
  count = var.zones

  vpc_id                          = aws_vpc.main.id
  availability_zone               = local.zones[count.index]
  cidr_block                      = cidrsubnet(var.cidr_block, 4, count.index)
  ipv6_cidr_block                 = cidrsubnet(aws_vpc.main.ipv6_cidr_block, 8, count.index)
  assign_ipv6_address_on_creation = true
  map_public_ip_on_launch         = false

  tags = { Name = "${var.name}-functions-${local.zones[count.index]}" }

  depends_on = [var.roles]
}

resource "aws_route_table" "functions" {
  vpc_id = aws_vpc.main.id

  tags = { Name = "${var.name}-functions" }
}

resource "aws_route" "functions_ipv6" {
  route_table_id              = aws_route_table.functions.id
  destination_ipv6_cidr_block = "::/0"
  egress_only_gateway_id      = aws_egress_only_internet_gateway.main.id
}

resource "aws_route_table_association" "functions" {
  count = var.zones

  subnet_id      = aws_subnet.functions[count.index].id
  route_table_id = aws_route_table.functions.id
}

resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.main.id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.functions.id]

  tags = { Name = "${var.name}-s3" }
}

# Combs: dual-stack with IPv4 egress, or IPv6 only. In a dual-stack subnet without IPv4 egress, Fargate cannot pull its
# image.

resource "aws_subnet" "combs" {
  count = var.zones

  vpc_id                          = aws_vpc.main.id
  availability_zone               = local.zones[count.index]
  cidr_block                      = local.ipv6_only ? null : cidrsubnet(var.cidr_block, 4, 8 + count.index)
  ipv6_native                     = local.ipv6_only
  ipv6_cidr_block                 = cidrsubnet(aws_vpc.main.ipv6_cidr_block, 8, 16 + count.index)
  assign_ipv6_address_on_creation = true
  map_public_ip_on_launch         = false # RunTask assigns the address of a comb
  enable_dns64                    = false # with DNS64, connections to IPv4-only hosts hang

  private_dns_hostname_type_on_launch            = local.ipv6_only ? "resource-name" : "ip-name"
  enable_resource_name_dns_aaaa_record_on_launch = local.ipv6_only

  tags = { Name = "${var.name}-combs-${local.zones[count.index]}" }
}

resource "aws_route_table" "combs" {
  vpc_id = aws_vpc.main.id

  tags = { Name = "${var.name}-combs" }
}

resource "aws_route" "combs_ipv6" {
  route_table_id              = aws_route_table.combs.id
  destination_ipv6_cidr_block = "::/0"
  egress_only_gateway_id      = aws_egress_only_internet_gateway.main.id
}

resource "aws_internet_gateway" "combs" {
  count = local.ipv6_only ? 0 : 1

  vpc_id = aws_vpc.main.id

  tags = { Name = var.name }
}

resource "aws_route" "combs_ipv4" {
  count = local.ipv6_only ? 0 : 1

  route_table_id         = aws_route_table.combs.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.combs[0].id
}

resource "aws_route_table_association" "combs" {
  count = var.zones

  subnet_id      = aws_subnet.combs[count.index].id
  route_table_id = aws_route_table.combs.id
}
