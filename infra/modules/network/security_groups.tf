# Allowed connections. No inbound traffic from outside: functions accept no connections, and combs accept connections
# from functions and other combs only.

resource "aws_security_group" "functions" {
  name        = "${var.name}-functions"
  description = "Fuse and HBees: no way in"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-functions" }

  depends_on = [var.roles]
}

resource "aws_security_group" "combs" {
  name        = "${var.name}-combs"
  description = "HCombs: reached by functions and other combs"
  vpc_id      = aws_vpc.main.id

  tags = { Name = "${var.name}-combs" }
}

data "aws_ec2_managed_prefix_list" "s3" {
  name = "com.amazonaws.${var.region}.s3"
}

locals {
  functions = aws_security_group.functions.id
  combs     = aws_security_group.combs.id

  # Each rule opens one TCP port of a group (`of`) to another group, a prefix list, or an address range.
  ways_out = merge(
    {
      functions_to_aws   = { of = local.functions, port = 443, ipv6 = "::/0", description = "AWS, over IPv6" }
      functions_to_s3    = { of = local.functions, port = 443, list = data.aws_ec2_managed_prefix_list.s3.id, description = "S3, over its gateway endpoint" }
      functions_to_combs = { of = local.functions, port = var.comb_port, group = local.combs, description = "Deliveries and reduce plans" }
      combs_to_combs     = { of = local.combs, port = var.comb_port, group = local.combs, description = "Exchanges between combs" }
      combs_to_aws       = { of = local.combs, port = 443, ipv6 = "::/0", description = "AWS, over IPv6" }
    },
    { for name in local.ipv6_only ? [] : ["combs_to_aws_ipv4"] : name => { of = local.combs, port = 443, ipv4 = "0.0.0.0/0", description = "The image, over IPv4" } },
  )
  ways_in = merge(
    {
      combs_from_functions = { of = local.combs, port = var.comb_port, group = local.functions, description = "Deliveries and reduce plans" }
      combs_from_combs     = { of = local.combs, port = var.comb_port, group = local.combs, description = "Exchanges between combs" }
    },
    # AWS owns the functions' network interfaces. This admits their IPv6 traffic if AWS does not attribute it to the
    # group.
    { for index in range(var.zones) : "combs_from_function_subnet_${index}" => {
      of = local.combs, port = var.comb_port, ipv6 = aws_subnet.functions[index].ipv6_cidr_block, description = "Functions, by their IPv6 range"
    } },
  )
}

resource "aws_vpc_security_group_egress_rule" "way" {
  for_each = local.ways_out

  security_group_id            = each.value.of
  description                  = each.value.description
  referenced_security_group_id = lookup(each.value, "group", null)
  prefix_list_id               = lookup(each.value, "list", null)
  cidr_ipv4                    = lookup(each.value, "ipv4", null)
  cidr_ipv6                    = lookup(each.value, "ipv6", null)
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}

resource "aws_vpc_security_group_ingress_rule" "way" {
  for_each = local.ways_in

  security_group_id            = each.value.of
  description                  = each.value.description
  referenced_security_group_id = lookup(each.value, "group", null)
  cidr_ipv6                    = lookup(each.value, "ipv6", null)
  ip_protocol                  = "tcp"
  from_port                    = each.value.port
  to_port                      = each.value.port
}
